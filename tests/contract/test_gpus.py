"""The Gpus port: the real pynvml above a simulated driver library, and the fake; the sandbox's pynvml beside them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeGpus
from nvml import shim

from agentd.adapters.gpu_nvml import Mode
from agentd.adapters.gpus import GpuReader
from agentd.gpu import Gpu, GpuDriver, GpuProcess, MigInstance, NvLink

GIB = 1024**3


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> shim.Shim:
    shim.load()
    monkeypatch.setenv(shim.ENVIRONMENT, str(tmp_path / "driver"))
    made = shim.Shim(tmp_path / "driver")
    made.put(gpus=2)
    return made


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Path]:
    """A file: calls that hang on it return when it is gone."""
    path = tmp_path / "hang"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@asynccontextmanager
async def reading(mode: Mode = "auto", **more: float) -> AsyncIterator[GpuReader]:
    reader = GpuReader(mode, clock=lambda: 123.0, **more)
    try:
        yield reader
    finally:
        await reader.close()


async def test_memory_and_processes(nvml: shim.Shim) -> None:
    both = (f"proc 0 pid=70 used={8 * GIB} kind=c", f"proc 0 pid=70 used={8 * GIB} kind=g")
    nvml.put(*both, "proc 0 pid=71 used=na kind=c", f"proc 0 pid=5 used={GIB} kind=g", f"proc 1 pid=70 used={GIB}")
    async with reading("nvml") as reader:
        found = await reader.read()
    assert (found.source, found.error, found.observed, found.faults) == ("nvml", "", 123.0, ())
    assert found.gpus[1] == Gpu(1, "GPU-1", "NVIDIA-Shim", 24 * GIB, 9 * GIB, 14 * GIB, "00000000:02:00.0")
    first = (GpuProcess(5, 0, GIB), GpuProcess(70, 0, 8 * GIB), GpuProcess(71, 0, 0))
    assert found.processes == (*first, GpuProcess(70, 1, GIB))


async def test_the_fake_reads_alike() -> None:
    fake = FakeGpus(24 * GIB, 2, clock=lambda: 123.0)
    fake.hold(70, 8 * GIB)
    found = await fake.read()
    assert (found.source, found.error, found.observed, len(found.gpus)) == ("nvml", "", 123.0, 2)
    assert found.processes == (GpuProcess(70, 0, 8 * GIB),)
    fake.error = "lost"
    assert (await fake.read()).error == "lost"
    fake.error = ""
    assert all(g.details is None for g in found.gpus)
    assert all(g.details is not None for g in (await fake.read(details=True)).gpus)
    fake.lost = {0}
    found = await fake.read()
    assert ([g.index for g in found.gpus], found.error) == ([1], "GPU 0: GPU is lost")
    assert [(f.kind, f.gpu) for f in found.faults] == [("lost", 0)]


@pytest.mark.parametrize("count", [0, 1, 2, 8])
async def test_any_number_of_gpus(nvml: shim.Shim, count: int) -> None:
    nvml.put(gpus=count)
    async with reading() as reader:
        found = await reader.read(details=True)
    assert (found.source, found.error, [g.index for g in found.gpus]) == ("nvml", "", list(range(count)))


async def test_details_come_when_asked_for(nvml: shim.Shim) -> None:
    nvml.gpus[0] = shim.gpu(0, reasons=0x1 | 0x4 | 0x40, ecc2=2)
    nvml.put("link 0 0 active=1 peer=00000000:02:00.0", "link 0 2 active=0")
    async with reading() as reader:
        assert (await reader.read()).gpus[0].details is None
        found = await reader.read(details=True)
    details = found.gpus[0].details
    assert details is not None
    assert (details.utilization, details.memory_utilization, details.temperature) == (0.87, 0.4, 61.0)
    assert (details.power, details.power_limit, details.throttle) == (250.5, 450.0, ("power-cap", "hw-thermal"))
    assert (details.ecc_corrected, details.ecc_uncorrected, details.mig) == (3, 2, False)
    assert details.nvlinks == (NvLink(0, True, "00000000:02:00.0"), NvLink(2, False))
    assert found.driver == GpuDriver("580.65.06", "13.0", "13.580.65.06")


async def test_every_field_may_be_unsupported(nvml: shim.Shim) -> None:
    names = ("bus", "temp", "power", "limit", "util", "memutil", "reasons", "ecc", "ecc2", "mig")
    nvml.gpus = {0: shim.gpu(0, xids=0, **dict.fromkeys(names))}
    nvml.driver = ()
    nvml.put()
    async with reading() as reader:
        found = await reader.read(details=True)
    (card,) = found.gpus
    assert (found.error, card.used, card.bus_id, found.driver) == ("", 9 * GIB, "", GpuDriver())
    details = card.details
    assert details is not None
    assert {getattr(details, f) for f in details.__dataclass_fields__} == {None, ()}


@pytest.mark.parametrize("code", [3, 4, 13, 999])
async def test_no_single_call_costs_the_others(nvml: shim.Shim, code: int) -> None:
    """Each of the functions fails alone, as an old driver or a container has it."""
    source = shim.SOURCE.read_text()
    spared = ("Init", "Shutdown", "ErrorString", "GetCount", "GetHandle", "GetUUID", "GetName")
    names = {line.split("(")[0].split()[-1] for line in source.splitlines() if line.startswith("EXPORT int nvml")}
    for name in sorted(n for n in names if not any(word in n for word in spared)):
        nvml.put(f"error {name} {code}", f"proc 0 pid=70 used={GIB}")
        async with reading() as reader:
            found = await reader.read(details=True)
        assert (len(found.gpus), found.error) == (2, ""), name
        assert [p.pid for p in found.processes] == [70], name


@pytest.mark.parametrize("code", [3, 4, 13])
async def test_processes_that_are_not_listed(nvml: shim.Shim, code: int) -> None:
    compute, graphics = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
    held = ("proc 0 pid=70 used=1 kind=c", "proc 0 pid=71 used=1 kind=g")
    for query, left in ((compute, [71]), (graphics, [70])):
        nvml.put(f"error {query}_v3 {code}", f"error {query}_v2 {code}", *held)
        async with reading() as reader:
            found = await reader.read()
        assert (found.error, [p.pid for p in found.processes]) == ("", left)


async def test_unknown_is_not_nobody(nvml: shim.Shim) -> None:
    """A list of compute processes that fails makes its GPU unreadable; of graphics, nobody needs it."""
    nvml.put(
        "error nvmlDeviceGetGraphicsRunningProcesses_v3 999", "error nvmlDeviceGetComputeRunningProcesses_v3 999 1"
    )
    async with reading() as reader:
        found = await reader.read()
    assert ([g.index for g in found.gpus], found.error) == ([0], "GPU 1: unknown Error")
    assert [f.kind for f in found.faults] == ["error"]


async def test_an_old_driver_serves(nvml: shim.Shim) -> None:
    missing = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3",
               "nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetCurrentClocksEventReasons")  # fmt: skip
    nvml.gpus[0] = shim.gpu(0, reasons=0x80)
    nvml.put(*(f"error {name} 13" for name in missing), f"proc 0 pid=70 used={GIB}")
    async with reading() as reader:
        found = await reader.read(details=True)
    assert (found.gpus[0].used, found.error, [p.pid for p in found.processes]) == (10 * GIB, "", [70])
    assert found.gpus[0].details is not None
    assert found.gpus[0].details.throttle == ("power-brake",)


async def test_a_divided_gpu_without_the_right_to_see_the_whole(nvml: shim.Shim) -> None:
    nvml.gpus[1] = shim.gpu(1, mig=1, util=None)
    parts = [f"instance 1 {n} uuid=MIG-{n} name=1g.10gb total={10 * GIB} used={n * GIB}" for n in (1, 3)]
    held = [f"proc 1 pid={pid} used={n * GIB} instance={n}" for pid, n in ((70, 1), (71, 3), (72, 1), (72, 3))]
    refused = [
        f"error nvmlDeviceGet{n} 4 1 whole" for n in ("MemoryInfo", "MemoryInfo_v2", "ComputeRunningProcesses_v3")
    ]
    for lines in ([], refused):
        nvml.put(*parts, *held, *lines)
        async with reading() as reader:
            memory, found = await reader.read(), await reader.read(details=True)
        for snapshot in (memory, found):
            assert [(p.pid, p.used // GIB) for p in snapshot.processes] == [(70, 1), (71, 3), (72, 4)], lines
        details = found.gpus[1].details
        assert details is not None
        assert details.mig is True
        assert details.instances[1] == MigInstance("MIG-3", "1g.10gb", 10 * GIB, 3 * GIB, 7 * GIB)
    assert found.gpus[1] == replace(memory.gpus[1], details=found.gpus[1].details)
    assert (memory.gpus[1].total, memory.gpus[1].used) == (20 * GIB, 4 * GIB)


async def test_none_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reader = GpuReader("none")
    found = await reader.read(details=True)
    assert (found.source, found.error, found.faults, reader._thread) == ("none", "", (), None)


@pytest.mark.parametrize(("code", "said"), [(12, "NVML Shared Library Not Found"), (9, "driver Not Loaded")])
async def test_a_machine_without_a_driver(nvml: shim.Shim, code: int, said: str) -> None:
    nvml.put(f"error nvmlInitWithFlags {code}")
    async with reading("auto") as auto, reading("nvml") as strict:
        for _ in range(3):
            found = await auto.read()
            assert (found.source, found.error, found.gpus) == ("none", "", ())
            assert [f.kind for f in found.faults] == ["absent"]
        found = await strict.read()
        assert found.source == "nvml"
        assert found.error.lower() == f"cannot read nvml: {said}".lower()


async def test_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    async with reading("auto") as auto, reading("nvml") as strict:
        assert (await auto.read()).source == "none"
        assert (await strict.read()).error == "cannot read NVML: the pynvml module is not installed"


async def test_a_lost_gpu_leaves_the_others(nvml: shim.Shim) -> None:
    async with reading() as reader:
        assert len((await reader.read()).gpus) == 2
        nvml.put("error * 15 0")
        for _ in range(3):
            found = await reader.read(details=True)
            assert ([g.index for g in found.gpus], found.error) == ([1], "GPU 0: GPU is lost")
            assert (found.trouble([1]), found.trouble([0])) == ("", "GPU 0: GPU is lost")
            assert [(f.kind, f.gpu, f.uuid) for f in found.faults] == [("lost", 0, "GPU-0")]
        nvml.put("error nvmlDeviceGetMemoryInfo 15", "error nvmlDeviceGetMemoryInfo_v2 15")
        assert (await reader.read()).gpus == ()
        nvml.put()
        assert (await reader.read()).error == ""


async def test_a_machine_whose_only_gpu_is_lost_cannot_be_read(nvml: shim.Shim) -> None:
    """Also once NVML has begun anew, and lists none."""
    nvml.gpus = {0: shim.gpu(0)}
    nvml.put()
    async with reading() as reader:
        await reader.read()
        nvml.put("error * 15 0")
        assert (await reader.read()).error == "GPU 0: GPU is lost"
        nvml.gpus = {}
        nvml.put()
        for _ in range(2):
            found = await reader.read()
            assert (found.gpus, found.error) == ((), "GPU GPU-0, which was number 0, is not there any more")
            assert [(f.kind, f.uuid) for f in found.faults] == [("lost", "GPU-0")]
        nvml.put(gpus=1)
        assert (await reader.read()).error == ""


async def test_an_index_that_moved(nvml: shim.Shim) -> None:
    """Number 0 is gone after a reload of the driver, and what was number 1 has its place."""
    async with reading() as reader:
        await reader.read()
        nvml.gpus = {0: shim.gpu(0, uuid="GPU-1")}
        nvml.put()
        found = await reader.read()
        assert ([(g.index, g.uuid) for g in found.gpus], found.error) == ([(0, "GPU-1")], "")
        assert [(f.kind, f.uuid) for f in found.faults] == [("lost", "GPU-0")]
        assert "which was number 0" in found.faults[0].text
        nvml.put(gpus=2)
        assert (await reader.read()).faults == ()


@pytest.mark.parametrize(("code", "kind"), [(1, "driver"), (9, "driver"), (18, "mismatch")])
async def test_a_driver_that_is_replaced(nvml: shim.Shim, code: int, kind: str) -> None:
    async with reading() as reader:
        assert (await reader.read()).error == ""
        nvml.put(f"error * {code}")
        found = await reader.read(details=True)
        assert (found.source, found.gpus, [f.kind for f in found.faults]) == ("nvml", (), [kind])
        nvml.put(f"error nvmlInitWithFlags {code}")
        found = await reader.read()
        assert (found.source, [f.kind for f in found.faults]) == ("nvml", [kind])
        nvml.driver = ("driver 581.1", *shim.DRIVER[1:])
        nvml.put()
        found = await reader.read()
        assert (found.error, len(found.gpus)) == ("", 2)
        assert found.driver is not None
        assert found.driver.version == "581.1"


async def test_a_mismatch_is_told_from_the_first_read_on(nvml: shim.Shim) -> None:
    nvml.put("error nvmlInitWithFlags 18")
    async with reading("auto") as reader:
        found = await reader.read()
        assert found.error == "cannot read NVML: RM has detected an NVML/RM version mismatch."
        assert [f.kind for f in found.faults] == ["mismatch"]
        nvml.put()
        assert (await reader.read()).error == ""


async def test_xids_are_kept_in_their_order(nvml: shim.Shim) -> None:
    async with reading() as reader:
        await reader.read(details=True)
        nvml.put("xid 1 13", "xid 1 79", "error nvmlDeviceGetIndex 15")
        assert (await reader.read()).xids == ()
        found = await reader.read(details=True)
        assert [(x.gpu, x.code, x.time) for x in found.xids] == [(1, 13, 123.0), (1, 79, 123.0)]
        nvml.put("xid 1 13", "xid 1 79", *(f"xid 0 {n}" for n in range(100)))
        for _ in range(5):
            found = await reader.read(details=True)
        assert [x.code for x in found.xids] == list(range(68, 100))
        assert found.xids[-1].seq == 102
        nvml.put("error * 9")
        assert len((await reader.read()).xids) == 32


async def test_events_come_again_after_a_wait_that_failed(nvml: shim.Shim) -> None:
    async with reading() as reader:
        nvml.put("error nvmlEventSetWait_v2 15")
        assert (await reader.read(details=True)).error == ""
        nvml.put("xid 0 48")
        assert [x.code for x in (await reader.read(details=True)).xids] == [48]


async def test_a_hanging_call_costs_one_thread_and_no_loop(nvml: shim.Shim, hang: Path) -> None:
    nvml.put(f"hang nvmlDeviceGetPowerUsage {hang}")
    async with reading("nvml", timeout=0.2) as reader:
        threads = threading.active_count()
        began = time.monotonic()
        answers = await asyncio.gather(*(reader.read(details=bool(n % 2)) for n in range(40)))
        # Who had asked for memory alone before the call that hangs has an answer.
        assert all(a.error.startswith("NVML has not answered for") for a in answers[1::2])
        assert [f.kind for f in answers[1].faults] == ["hang"]
        for _ in range(20):
            assert (await reader.read()).error
        assert time.monotonic() - began < 5
        assert threading.active_count() == threads + 1
        assert len(reader._pending) <= 2
        assert reader._requests.qsize() <= 1
        waiting = [request.answer for request in reader._pending.values()]
        hang.unlink()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
    async with reading("nvml") as reader:
        assert (await reader.read(details=True)).error == ""


async def test_concurrent_reads_share_one_call(nvml: shim.Shim) -> None:
    async with reading() as reader:
        first, *others = await asyncio.gather(*(reader.read() for _ in range(5)))
        assert all(other is first for other in others)
        detailed, memory = await asyncio.gather(reader.read(details=True), reader.read())
        assert detailed is memory
