"""Stop a unit and prove that nothing of it is left."""

from __future__ import annotations

import asyncio
import signal

from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, poll_until
from agentd.ports import UnitControl
from agentd.types import JobResult

KILL_AFTER = 5.0
"""Seconds that processes get to vanish once systemd has called the unit stopped."""
LOADING_PATIENCE = 5.0
"""Seconds for a server that never answered: vLLM does not heed a SIGTERM while it loads, and has nothing to lose."""


async def stop_unit(ctx: SlotContext, model: ModelUnit, cgroup: str, patience: float | None = None) -> str:
    """Stop through systemd and see it gone. Returns what had to be forced, "" when nothing. `patience`: seconds until
    SIGKILL, where the model's own stop_timeout is too long.

    Raises AgentdError("stuck") when processes survive SIGKILL.
    """
    own = model.spec.stop_timeout
    forced = await _stop_job(ctx, model, own if patience is None else min(own, patience))
    left = await _await_empty(ctx, model, cgroup)
    if left:
        count = ctx.ports.kernel.kill_cgroup(cgroup)
        ctx.counters.add("agentd_orphan_killed", model.unit, by=count)
        forced = f"{count} orphaned process{'es' if count != 1 else ''} of {model.unit} killed"
        if await _await_empty(ctx, model, cgroup):
            pids = ", ".join(map(str, sorted(ctx.ports.kernel.cgroup_pids(cgroup))))
            raise AgentdError("stuck", f"processes of {model.unit} survive SIGKILL: {pids}")
    return forced


async def _stop_job(ctx: SlotContext, model: ModelUnit, patience: float) -> str:
    """The stop job; past its time the whole cgroup is killed. A lost bus is waited for by the caller's deadline."""
    control = ctx.ports.control
    deadline = asyncio.get_running_loop().time() + patience
    try:
        result = await _wait_stop(control, model.unit, deadline)
        if result is JobResult.DONE:
            return ""
    except AgentdError as error:
        if error.kind != "job-timeout":
            raise
    if not (await control.list([model.unit]))[model.unit].active_state.up:
        return ""
    await control.kill(model.unit, signal.SIGKILL)
    wake = ctx.wakes.register(model.unit)
    try:
        async with asyncio.timeout(KILL_AFTER):
            await poll_until(lambda: _down(control, model.unit), wake)
    except TimeoutError as error:
        raise AgentdError("stuck", f"{model.unit} does not stop, not even by SIGKILL") from error
    finally:
        ctx.wakes.unregister(model.unit, wake)
    return f"{model.unit} did not stop within {patience:g} s and was killed"


async def _wait_stop(control: UnitControl, unit: str, deadline: float) -> JobResult:
    loop = asyncio.get_running_loop()
    while True:
        try:
            job = await control.stop(unit)
            result = await job.wait(max(0.1, deadline - loop.time()))
        except AgentdError as error:
            if error.kind not in ("bus-down", "bus-timeout") or loop.time() >= deadline:
                raise
            result = JobResult.LOST
        if result is not JobResult.LOST or loop.time() >= deadline:
            return result
        await asyncio.sleep(0.05)  # The bus reconnects by itself; a stop job may be asked for twice.


async def _down(control: UnitControl, unit: str) -> bool:
    states = await control.list([unit])
    return unit not in states or not states[unit].active_state.up


async def _await_empty(ctx: SlotContext, model: ModelUnit, cgroup: str) -> bool:
    """True when processes are left in the cgroup after the grace."""
    kernel = ctx.ports.kernel
    if not cgroup or not kernel.cgroup_pids(cgroup):
        return False

    async def empty() -> bool:
        return not kernel.cgroup_pids(cgroup)

    wake = ctx.wakes.register(model.unit)
    try:
        async with asyncio.timeout(KILL_AFTER):
            await poll_until(empty, wake)
    except TimeoutError:
        return True
    finally:
        ctx.wakes.unregister(model.unit, wake)
    return False
