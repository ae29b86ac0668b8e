"""RELEASE: stop the unit and prove that nothing of it is left."""

from __future__ import annotations

import asyncio
import signal

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun, poll_until
from agentd.ports import UnitControl
from agentd.types import JobResult

KILL_AFTER = 5.0
"""Seconds that processes get to vanish once systemd has called the unit stopped."""


async def release(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS when the previous model's unit is inactive, its cgroup empty and its port closed; STUCK when never."""
    if run.previous is None:
        return Step(Signal.PASS, "nothing to stop")
    forced = await stop_unit(ctx, run.previous, run.previous_cgroup)
    holder = ctx.ports.kernel.port_holder(run.previous.port)
    if holder is not None and run.target is not None and run.target.port == run.previous.port:
        who = f"{holder.comm} (pid {holder.pid})" if holder.pid else "a process of somebody else"
        return Step(Signal.FAIL, cause=f"port {holder.port} is still held by {who}")
    return Step(Signal.PASS, forced or f"{run.previous.unit} is stopped")


async def stop_unit(ctx: SlotContext, model: ModelUnit, cgroup: str) -> str:
    """Stop through systemd and see it gone. Returns what had to be forced, "" when nothing.

    Raises AgentdError("stuck") when processes survive SIGKILL.
    """
    forced = await _stop_job(ctx, model)
    left = await _await_empty(ctx, model, cgroup)
    if left:
        count = ctx.ports.kernel.kill_cgroup(cgroup)
        forced = f"{count} orphaned process{'es' if count != 1 else ''} of {model.unit} killed"
        if await _await_empty(ctx, model, cgroup):
            pids = ", ".join(map(str, sorted(ctx.ports.kernel.cgroup_pids(cgroup))))
            raise AgentdError("stuck", f"processes of {model.unit} survive SIGKILL: {pids}")
    return forced


async def _stop_job(ctx: SlotContext, model: ModelUnit) -> str:
    """The stop job; past its time the whole cgroup is killed. A lost bus is waited for by the caller's deadline."""
    control = ctx.ports.control
    deadline = asyncio.get_running_loop().time() + model.spec.stop_timeout
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
    return f"{model.unit} did not stop within {model.spec.stop_timeout:g} s and was killed"


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
