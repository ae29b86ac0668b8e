"""Runtimes with policy "stop_unit": their unit is stopped for the time of a change, and started again at its end.

That they must run again is on the disk before they are stopped, so that neither a failed change nor a crash of agentd
leaves them down.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Protocol

from agentd.core.schema import Service
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.managers.models.context import SlotContext, SwitchRun, poll_until
from agentd.managers.models.patient import AWAY
from agentd.ports import SlotRecord
from agentd.types import JobResult


class Owner(Protocol):
    """What is needed of the slot's owner."""

    ctx: SlotContext
    record: SlotRecord

    def busy(self) -> bool: ...
    async def save(self, record: SlotRecord) -> None: ...


async def stop_runtime(ctx: SlotContext, run: SwitchRun, name: str, until: float) -> str:
    """Stop the unit until `until` on the monotonic clock at most, and see its processes gone; "" when it did not run.

    Raises AgentdError when it does not stop, and when it cannot be noted that it must run again.
    """
    unit, control = ctx.runtimes[name].unit, ctx.ports.control
    state = await control.show(unit)
    if not state.active_state.up:
        return ""
    if run.park is not None:
        await run.park(name)
    job = await control.stop(unit)
    left = max(0.1, until - ctx.ports.clock.monotonic())
    result = await job.wait(left)
    if result is not JobResult.DONE and result is not JobResult.LOST:
        raise AgentdError("evict-failed", f"cannot stop {unit} of {name}: the job ended with {result.value}")
    await _empty(ctx, unit, state.control_group, until)
    return f"{unit} is stopped until the change is over"


async def _empty(ctx: SlotContext, unit: str, cgroup: str, until: float) -> None:
    kernel = ctx.ports.kernel

    async def gone() -> bool:
        return not (cgroup and kernel.cgroup_pids(cgroup))

    wake = ctx.wakes.register(unit)
    try:
        async with asyncio.timeout(max(0.1, until - ctx.ports.clock.monotonic())):
            await poll_until(gone, wake)
    except TimeoutError:
        pids = ", ".join(map(str, sorted(kernel.cgroup_pids(cgroup))))
        raise AgentdError("evict-failed", f"{unit} is stopped, but processes of it are left: {pids}") from None
    finally:
        ctx.wakes.unregister(unit, wake)


async def restore(owner: Owner, services: Mapping[str, Service], events: EventLog) -> None:
    """Start what a change that is over has stopped. While systemd is away it stays noted and is tried at the next pass;
    what systemd refuses is told and forgotten.

    Raises AgentdError while systemd is away.
    """
    for name in owner.record.parked:
        service = services.get(name)
        if service is not None and service.enabled:
            try:
                await owner.ctx.ports.control.start(service.unit)
            except AgentdError as error:
                if error.kind in AWAY:
                    raise
                events.emit("runtime.not-restored", name, f"{service.unit} is not started again: {error.message}")
            else:
                events.emit("runtime.restored", name, f"{service.unit} is started again, the change is over")
        if owner.busy():
            return
        parked = tuple(other for other in owner.record.parked if other != name)
        await owner.save(dataclasses.replace(owner.record, parked=parked))
