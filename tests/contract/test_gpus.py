"""The Gpus port on a stand-in of the pynvml module: values, absence, failures, a call that hangs."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeGpus

from agentd.adapters.gpus import GpuReader
from agentd.gpu import Gpu, GpuProcess

GIB = 1024**3


class NVMLError(Exception):
    def __init__(self, value: int, text: str) -> None:
        super().__init__(text)
        self.value = value


class StandIn(types.ModuleType):
    """Two GPUs; its fields are the driver's behaviour."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    nvmlMemory_v2 = 0x2000028

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.calls: list[str] = []
        self.init_error: Exception | None = None
        self.lost: set[int] = set()
        self.old_driver = False
        self.hang: threading.Event | None = None

    def nvmlInit(self) -> None:
        self.calls.append("init")
        if self.init_error:
            raise self.init_error

    def nvmlShutdown(self) -> None:
        self.calls.append("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        self.calls.append("count")
        if self.hang:
            self.hang.wait(30)
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.lost:
            raise NVMLError(15, "GPU is lost")
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA Stand-in"

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:
        if version and self.old_driver:
            raise NVMLError(13, "Function Not Found")
        return SimpleNamespace(total=24 * GIB, used=(9 if version else 10) * GIB, free=14 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=70, usedGpuMemory=8 * GIB), SimpleNamespace(pid=71, usedGpuMemory=None)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:
        if self.old_driver:
            raise NVMLError(3, "Not Supported")
        return [SimpleNamespace(pid=70, usedGpuMemory=8 * GIB), SimpleNamespace(pid=5, usedGpuMemory=GIB)]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    made = StandIn()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    yield made
    if made.hang:
        made.hang.set()


async def test_memory_and_processes(nvml: StandIn) -> None:
    reader = GpuReader("nvml", clock=lambda: 123.0)
    snapshot = await reader.read()
    assert (snapshot.source, snapshot.error, snapshot.observed) == ("nvml", "", 123.0)
    assert snapshot.gpus[1] == Gpu(1, "GPU-1", "NVIDIA Stand-in", 24 * GIB, 9 * GIB, 14 * GIB)
    wanted = (GpuProcess(5, 0, GIB), GpuProcess(70, 0, 8 * GIB), GpuProcess(71, 0, 0))
    assert snapshot.processes[:3] == wanted
    await reader.read()
    assert nvml.calls.count("init") == 1
    await reader.close()


async def test_the_fake_reads_alike() -> None:
    fake = FakeGpus(24 * GIB, 2, clock=lambda: 123.0)
    fake.hold(70, 8 * GIB)
    snapshot = await fake.read()
    assert (snapshot.source, snapshot.error, snapshot.observed, len(snapshot.gpus)) == ("nvml", "", 123.0, 2)
    assert snapshot.processes == (GpuProcess(70, 0, 8 * GIB),)
    fake.error = "lost"
    assert (await fake.read()).error == "lost"


async def test_an_old_driver_serves(nvml: StandIn) -> None:
    nvml.old_driver = True
    reader = GpuReader()
    snapshot = await reader.read()
    assert (snapshot.gpus[0].used, snapshot.error) == (10 * GIB, "")
    assert [p.pid for p in snapshot.processes if p.gpu == 0] == [70, 71]
    await reader.close()


async def test_none_reads_nothing(nvml: StandIn) -> None:
    assert (await GpuReader("none").read()).source == "none"
    assert nvml.calls == []


async def test_a_machine_without_a_driver(nvml: StandIn) -> None:
    nvml.init_error = NVMLError(12, "NVML Shared Library Not Found")
    auto, strict = GpuReader("auto"), GpuReader("nvml")
    for _ in range(3):
        snapshot = await auto.read()
        assert (snapshot.source, snapshot.error, snapshot.gpus) == ("none", "", ())
    assert nvml.calls.count("init") == 1
    snapshot = await strict.read()
    assert (snapshot.source, snapshot.error) == ("nvml", "cannot read NVML: NVML Shared Library Not Found")
    await auto.close()
    await strict.close()


async def test_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    auto, strict = GpuReader("auto"), GpuReader("nvml")
    assert (await auto.read()).source == "none"
    assert (await strict.read()).error == "cannot read NVML: the pynvml module is not installed"
    await auto.close()
    await strict.close()


async def test_a_lost_gpu_is_told_and_all_lost_begins_again(nvml: StandIn) -> None:
    reader = GpuReader("auto")
    assert len((await reader.read()).gpus) == 2
    nvml.lost = {0}
    snapshot = await reader.read()
    assert ([g.index for g in snapshot.gpus], snapshot.error) == ([1], "GPU 0: GPU is lost")
    nvml.lost = {0, 1}
    assert (await reader.read()).gpus == ()
    assert nvml.calls.count("shutdown") == 1
    nvml.lost, nvml.init_error = set(), NVMLError(999, "Driver/library version mismatch")
    snapshot = await reader.read()
    assert (snapshot.source, snapshot.error) == ("nvml", "cannot read NVML: driver/library version mismatch")
    nvml.init_error = None
    assert len((await reader.read()).gpus) == 2
    await reader.close()


async def test_a_hanging_call_costs_one_thread_and_no_loop(nvml: StandIn) -> None:
    nvml.hang = threading.Event()
    reader = GpuReader("nvml", timeout=0.2)
    threads = threading.active_count()
    began = time.monotonic()
    answers = await asyncio.gather(*(reader.read() for _ in range(20)))
    assert all(a.error.startswith("NVML has not answered for") for a in answers)
    assert (await reader.read()).error
    assert time.monotonic() - began < 2
    assert threading.active_count() == threads + 1
    assert nvml.calls.count("count") == 1
    hang, nvml.hang = nvml.hang, None
    hang.set()
    assert reader._pending is not None
    async with asyncio.timeout(5):
        await reader._pending
    assert (await reader.read()).error == ""
    await reader.close()


async def test_concurrent_reads_share_one_call(nvml: StandIn) -> None:
    reader = GpuReader("nvml")
    first, *others = await asyncio.gather(*(reader.read() for _ in range(5)))
    assert all(other is first for other in others)
    assert nvml.calls.count("count") == 1
    await reader.close()
