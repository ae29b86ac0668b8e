"""NVML on a real GPU says what nvidia-smi says, and memory comes back when its holder is gone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from fakes import FakeStore
from nvml.holding import MIB, Holder, Smi

from agentd.adapters.clock import SystemClock
from agentd.adapters.gpus import GpuReader
from agentd.adapters.kernel import LinuxKernel
from agentd.core.schema import Service, Settings, Slot
from agentd.core.switch import Signal, State
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.gpu import GpuSnapshot
from agentd.managers.gpus import GpusManager
from agentd.managers.models.context import Ports, SlotContext, SwitchRun, Wakes
from agentd.managers.models.facts import FactsBook
from agentd.managers.models.vram import wait_vram
from agentd.types import Change

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]

LEEWAY = 64 * MIB
CONTEXT = 1024 * MIB
"""More than a CUDA context takes beside what was allocated."""
SIZE = 2048
Hold = Callable[[int], Holder]


async def read(*, details: bool = False) -> GpuSnapshot:
    reader = GpuReader("nvml")
    try:
        found = await reader.read(details=details)
    finally:
        await reader.close()
    assert found.error == ""
    return found


async def test_the_figures_are_those_of_nvidia_smi(smi: Smi) -> None:
    fields = "index,uuid,name,pci.bus_id,driver_version,memory.total,memory.used,temperature.gpu"
    rows = await asyncio.to_thread(smi, "gpu", fields)
    found = await read(details=True)
    assert [(str(g.index), g.uuid, g.name) for g in found.gpus] == [(r["index"], r["uuid"], r["name"]) for r in rows]
    assert found.driver is not None
    for gpu, row in zip(found.gpus, rows, strict=True):
        assert gpu.bus_id.upper() == row["pci.bus_id"].upper()
        assert found.driver.version == row["driver_version"]
        assert abs(gpu.total - int(row["memory.total"]) * MIB) <= MIB
        assert abs(gpu.used - int(row["memory.used"]) * MIB) <= LEEWAY
        assert 0 <= gpu.free <= gpu.total - gpu.used
        details = gpu.details
        assert details is not None
        if details.temperature is not None:
            assert abs(details.temperature - float(row["temperature.gpu"])) <= 10
        assert details.utilization is None or 0 <= details.utilization <= 1
        assert details.power is None or 0 < details.power < 2000


async def test_an_allocation_is_seen_and_given_back(hold: Hold) -> None:
    before = (await read()).gpus[0]
    holder = await asyncio.to_thread(hold, SIZE)
    grown = (await read()).gpus[0].used - before.used
    assert grown + LEEWAY >= SIZE * MIB
    assert grown <= SIZE * MIB + CONTEXT
    await asyncio.to_thread(holder.kill)
    await until_free(before.free)


async def until_free(wanted: int) -> None:
    """The driver gives memory back some moments after the process is gone; there is no event for that."""
    async with asyncio.timeout(30):
        while (await read()).gpus[0].free + LEEWAY < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_memory_is_attributed_to_the_unit(smi: Smi, hold_in_unit: Hold) -> None:
    holder = await asyncio.to_thread(hold_in_unit, SIZE)
    rows = await asyncio.to_thread(smi, "compute-apps", "pid,used_memory")
    told = {int(row["pid"]): row["used_memory"] for row in rows}
    assert holder.pid in told, "nvidia-smi does not list the process: is this a container without the host's pids?"
    world, clock = World(SystemClock()), SystemClock()
    services = {"held": Service(unit=holder.unit, role="generic")}
    settings = Settings(slots={"gpu0": Slot()}, services=services)
    reader = GpuReader("nvml")
    manager = GpusManager(
        reader, LinuxKernel(), world, clock, EventLog(FakeStore(), clock), Counters(), lambda: settings
    )
    await manager.ensure()
    await reader.close()
    (mine,) = (h for h in world.gpus.holders if h.pid == holder.pid)
    assert (mine.unit, mine.foreign) == (holder.unit, False)
    assert abs(world.gpu_owners[mine.gpu, holder.unit] - int(told[holder.pid]) * MIB) <= LEEWAY
    assert [f.aspect for f in manager.findings() if f.subject.startswith("slot:")] == []


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_the_wait_ends_when_the_memory_is_back(hold_in_unit: Hold, how: str) -> None:
    before = (await read()).gpus[0].free
    holder = await asyncio.to_thread(hold_in_unit, SIZE)
    reader = GpuReader("nvml")
    ctx, run = context(reader), switching()
    waiting = asyncio.ensure_future(wait_vram(ctx, run, None, frozenset({holder.pid})))
    await asyncio.to_thread(holder.stop if how == "stop" else holder.kill)
    step = await waiting
    assert (step.signal, step.cause) == (Signal.PASS, "")
    assert (await reader.read()).gpus[0].free + LEEWAY >= before
    await reader.close()


async def test_a_holder_that_stays_is_named(hold_in_unit: Hold) -> None:
    holder = await asyncio.to_thread(hold_in_unit, SIZE)
    reader = GpuReader("nvml")
    step = await wait_vram(context(reader, vram_timeout=2.0), switching(), None, frozenset({holder.pid}))
    await reader.close()
    assert step.signal is Signal.FAIL
    assert str(holder.pid) in step.cause
    assert holder.unit in step.cause


async def test_what_a_look_costs(record_property: Callable[[str, object], None]) -> None:
    """Noted, not judged: a switch looks ten times a second."""
    reader = GpuReader("nvml")
    for what in (False, True):
        await reader.read(details=what)
        began = time.perf_counter()
        for _ in range(50):
            assert (await reader.read(details=what)).error == ""
        spent = (time.perf_counter() - began) / 50 * 1000
        record_property("details" if what else "memory", spent)
        print(f"{'with details' if what else 'memory alone'}: {spent:.2f} ms")
    await reader.close()


def context(reader: GpuReader, **slot: float) -> SlotContext:
    nothing = cast("Any", None)
    clock = SystemClock()
    ports = Ports(nothing, LinuxKernel(), reader, nothing, nothing, nothing, clock, nothing)
    settings = Slot(**{"vram_timeout": 60.0, "vram_stable": 1.0, **slot})  # type: ignore[arg-type]
    return SlotContext(
        "gpu0", settings, {}, {}, ports, Wakes(), FactsBook(FakeStore()), Counters(), lambda *_, **__: None
    )


def switching() -> SwitchRun:
    change = Change("s1", "switch", "gpu0", None, None, time.time(), "wait-vram", origin=str(os.getpid()))
    return SwitchRun(change, State.IDLE, State.WAIT_VRAM)
