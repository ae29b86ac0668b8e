"""The way back: CLEANUP of the failed target, SETTLE until the GPU is free again, ROLLBACK to the previous model."""

from __future__ import annotations

import asyncio

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import SlotContext, SwitchRun, poll_until
from agentd.managers.models.draining import ungate
from agentd.managers.models.endpoint import Endpoint
from agentd.managers.models.readiness import await_ready
from agentd.managers.models.release import stop_unit
from agentd.managers.models.start import Started, start_unit
from agentd.managers.models.vram import wait_vram
from agentd.types import ActiveState


async def cleanup(ctx: SlotContext, run: SwitchRun) -> Step:
    """Stop the target if this change started it, or if it is up after a crash of ours."""
    target = run.target
    if target is None:
        return Step(Signal.PASS, "nothing was started")
    state = await ctx.ports.control.show(target.unit)
    cgroup = state.control_group or run.target_cgroup
    if not state.active_state.up and not (cgroup and ctx.ports.kernel.cgroup_pids(cgroup)):
        return Step(Signal.PASS, f"{target.unit} is not running")
    run.target_pids |= ctx.ports.kernel.cgroup_pids(cgroup) if cgroup else frozenset()
    forced = await stop_unit(ctx, target, cgroup)
    return Step(Signal.PASS, forced or f"{target.unit} is stopped")


async def settle(ctx: SlotContext, run: SwitchRun) -> Step:
    """Decide where to go back to, and wait until there is room for it."""
    await _let_stops_finish(ctx, run)
    up = await ctx.up()
    previous = run.previous
    if previous is not None and previous.name in up:
        return Step(Signal.PASS, f"{previous.name} is up")
    if up:
        run.adopted = up[0]
        return Step(Signal.ADOPT, f"{up[0]} was started by somebody else and stays")
    if previous is None or not run.rollback:
        return Step(Signal.EMPTIED, "no model to go back to" if previous is None else "rollback was not wanted")
    # Of the previous model nothing may be left either: its own leftovers would make its new start fail.
    step = await wait_vram(ctx, previous, run.target_pids | run.previous_pids, run.unlisted)
    return Step(Signal.STUCK, cause=step.cause) if step.signal is Signal.FAIL else step


async def _let_stops_finish(ctx: SlotContext, run: SwitchRun) -> None:
    """After a crash a stop job of ours may still be on its way; starting into it would be undone by it."""
    if run.previous is None:
        return
    unit = run.previous.unit
    wake = ctx.wakes.register(unit)

    async def settled() -> bool:
        states = await ctx.ports.control.list([unit])
        return unit not in states or states[unit].active_state is not ActiveState.DEACTIVATING

    try:
        await poll_until(settled, wake)
    finally:
        ctx.wakes.unregister(unit, wake)


async def rollback(ctx: SlotContext, run: SwitchRun) -> Step:
    """Start the previous model once, and wait until it really serves."""
    previous = run.previous
    assert previous is not None
    others = [name for name in await ctx.up() if name != previous.name]
    if others:
        run.adopted = others[0]
        return Step(Signal.ADOPT, f"{others[0]} was started by somebody else and stays")
    await ungate(ctx, run)
    try:
        started = await start_unit(ctx, previous)
        await _ready(ctx, run, started)
    except AgentdError as error:
        return Step(Signal.FAIL, cause=f"{previous.name} does not come back: {error.message}")
    return Step(Signal.PASS, f"{previous.name} is serving again")


async def _ready(ctx: SlotContext, run: SwitchRun, started: Started) -> None:
    previous = run.previous
    assert previous is not None
    await await_ready(ctx, previous, started)
    if previous.spec.verify:
        await Endpoint(ctx.ports, previous).canary(previous.spec.verify_timeout)
    if started.job is not None:
        await asyncio.wait({started.job}, timeout=previous.spec.start_timeout)
