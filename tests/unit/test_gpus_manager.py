"""The manager of the GPUs' snapshot, on fakes in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fakes import FakeClock, FakeGpus, FakeKernel, FakeStore

from agentd.core.schema import Service, Settings, Slot
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.gpu import GpuDetails, GpuHolder, NvLink, Xid
from agentd.managers.gpus import GpusManager

GIB = 1024**3


class Rig:
    def __init__(self, **slots: Slot) -> None:
        self.clock = FakeClock()
        self.gpus = FakeGpus(24 * GIB, 2, clock=self.clock.time)
        self.kernel = FakeKernel()
        self.world = World(self.clock)
        self.events = EventLog(FakeStore(), self.clock)
        self.counters = Counters()
        services = {"qwen": Service(unit="vllm-qwen.service", role="model")}
        self.settings = Settings(slots=slots or {"gpu0": Slot()}, services=services)
        self.manager = GpusManager(
            self.gpus, self.kernel, self.world, self.clock, self.events, self.counters, lambda: self.settings
        )

    async def look(self) -> None:
        """As after `period` seconds."""
        await self.clock.sleep(15)
        await self.manager.ensure()

    def kinds(self) -> list[tuple[str, str]]:
        return [(e.kind, e.subject) for e in self.events.recent(100)]

    def found(self) -> list[tuple[str, str]]:
        return [(f.subject, f.aspect) for f in self.manager.findings()]


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.ensure_future(rig.manager.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_details_by_period_and_memory_when_it_moved() -> None:
    rig = Rig()
    rig.gpus.details = {0: GpuDetails(temperature=50.0)}
    await rig.manager.ensure()
    await rig.manager.ensure()
    assert (rig.gpus.reads, rig.gpus.detailed) == (1, 1)
    rig.gpus.hold(70, GIB)
    rig.manager.expire()
    await rig.manager.ensure()
    assert (rig.gpus.reads, rig.gpus.detailed) == (2, 1)
    shown = rig.world.gpus.gpus[0]
    assert shown.details is not None
    assert (shown.used, shown.details.temperature) == (rig.gpus.used(0), 50.0)
    await rig.look()
    assert (rig.gpus.reads, rig.gpus.detailed) == (3, 2)


async def test_it_looks_by_itself_where_there_is_a_gpu() -> None:
    rig = Rig()
    async with running(rig):
        rig.gpus.present = False
        await rig.manager.ensure()
        await rig.clock.sleep(3600)
        assert rig.gpus.reads == 1
        rig.gpus.present = True
        await rig.manager.ensure()
        await rig.clock.sleep(150.5)
        assert 11 <= rig.gpus.reads <= 12


async def test_who_holds_memory() -> None:
    rig = Rig()
    named = (("vllm-qwen.service", "python3"), ("app-game.scope", "game"), ("", "train"))
    qwen, game, train = (rig.kernel.spawn(program, unit=unit) for unit, program in named)
    for pid in (qwen, game, train):
        rig.gpus.hold(pid, GIB, gpu=0)
    rig.gpus.hold(9999, 2 * GIB, gpu=1)
    await rig.manager.ensure()
    assert rig.world.gpus.holders == (
        GpuHolder(0, qwen, "vllm-qwen.service", "python3", GIB, False),
        GpuHolder(0, game, "app-game.scope", "game", GIB, True),
        GpuHolder(0, train, "", "train", GIB, True),
        GpuHolder(1, 9999, "", "", 2 * GIB, True),
    )
    base = rig.gpus.base
    assert rig.world.gpu_owners == {
        (0, "vllm-qwen.service"): GIB, (0, "foreign"): 2 * GIB, (0, "unlisted"): base,
        (1, "foreign"): 2 * GIB, (1, "unlisted"): base,
    }  # fmt: skip


async def test_the_many_names_of_scopes_are_one_owner() -> None:
    """A container's and a desktop program's have an id and a pid in them."""
    rig = Rig()
    for unit in ("docker-0f3a.scope", "docker-77bc.scope", "app-gnome-game-4711.scope"):
        rig.gpus.hold(rig.kernel.spawn("game", unit=unit), GIB)
    await rig.manager.ensure()
    assert rig.world.gpu_owners[0, "foreign"] == 3 * GIB
    assert {owner for _, owner in rig.world.gpu_owners} == {"foreign", "unlisted"}
    assert {holder.unit for holder in rig.world.gpus.holders} >= {"docker-0f3a.scope"}, "shown by name all the same"


async def test_a_gpu_is_lost_and_comes_back() -> None:
    rig = Rig()
    await rig.manager.ensure()
    rig.gpus.lost = {0}
    for _ in range(3):
        await rig.look()
    assert rig.found() == [("gpu:0", "lost"), ("slot:gpu0", "gpus")]
    rig.gpus.lost = set()
    await rig.look()
    assert rig.found() == []
    assert rig.kinds() == [("gpu.lost", "gpu:0"), ("gpu.back", "gpu:0")]


async def test_a_driver_that_hangs_and_goes_on() -> None:
    rig = Rig()
    await rig.manager.ensure()
    rig.gpus.error, rig.gpus.fault = "NVML has not answered for 5 s", "hang"
    await rig.look()
    await rig.look()
    (finding,) = rig.manager.findings()
    assert (finding.subject, finding.aspect) == ("host", "nvml")
    assert "for 15 s" in finding.cause
    rig.gpus.error = ""
    await rig.look()
    assert rig.found() == []
    assert rig.kinds() == [("gpu.unreadable", "host"), ("gpu.readable", "host")]


async def test_a_driver_that_is_gone_is_looked_for_more_often() -> None:
    rig = Rig()
    async with running(rig):
        await rig.manager.ensure()
        rig.gpus.error = "driver Not Loaded"
        await rig.clock.sleep(16)
        assert rig.gpus.reads == 2
        rig.gpus.error = ""
        await rig.clock.sleep(5)
        assert rig.kinds()[-1] == ("gpu.readable", "host")
        await rig.clock.sleep(13)
        assert rig.gpus.reads == 3


async def test_each_xid_is_told_and_counted_once() -> None:
    rig = Rig()
    rig.gpus.xids = [Xid(0, 31, rig.clock.time(), 1)]
    await rig.manager.ensure()
    rig.gpus.xids += [Xid(0, 31, rig.clock.time(), 2), Xid(1, 79, rig.clock.time(), 3)]
    for _ in range(3):
        await rig.look()
    assert rig.kinds() == [("gpu.xid", "gpu:0"), ("gpu.xid", "gpu:0"), ("gpu.xid", "gpu:1")]
    assert rig.counters.snapshot() == {("agentd_gpu_xid", ("0", "31")): 2, ("agentd_gpu_xid", ("1", "79")): 1}
    assert rig.found() == [("gpu:0", "xid-31"), ("gpu:1", "xid-79")]


async def test_what_earlier_looks_told_is_remembered() -> None:
    rig = Rig(gpu0=Slot(gpus=(0, 1)))
    rig.gpus.details = {0: GpuDetails(nvlinks=(NvLink(0, True, "00000000:02:00.0"),))}
    await rig.manager.ensure()
    rig.gpus.details = {0: GpuDetails(nvlinks=(NvLink(0, False),))}
    await rig.look()
    assert rig.found() == [("gpu:0", "nvlink")]
    rig.gpus.details = {}
    rig.gpus.uuids = {0: "GPU-fake-1", 1: "GPU-fake-0"}
    await rig.look()
    assert rig.found() == [("slot:gpu0", "gpus")] * 2
