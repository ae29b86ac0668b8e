"""The way back: CLEANUP of the failed target, SETTLE until the GPU is free again, ROLLBACK to the previous model."""

from __future__ import annotations

import asyncio

from agentd.core.switch import Signal, State
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.asleep import ASKED, asleep, awake, sleeps
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun, poll_until
from agentd.managers.models.draining import ungate
from agentd.managers.models.endpoint import Endpoint
from agentd.managers.models.loading import LoadWatch
from agentd.managers.models.making_way import wait_for_previous
from agentd.managers.models.orphans import tree_of
from agentd.managers.models.readiness import await_ready
from agentd.managers.models.release import LOADING_PATIENCE, stop_unit
from agentd.managers.models.retry import once_more
from agentd.managers.models.start import PATIENT, Started, bring_up, end_unit, start_unit
from agentd.managers.models.vram import wait_vram
from agentd.types import ActiveState, UnitState


async def cleanup(ctx: SlotContext, run: SwitchRun) -> Step:
    """Stop the target if this change started it, or if it is up after a crash of ours."""
    target = run.target
    if target is None:
        return Step(Signal.PASS, "nothing was started")
    state = await ctx.ports.control.show(target.unit)
    if await _untouched(ctx, run, target, state):
        return Step(Signal.PASS, f"{target.name} sleeps on")
    cgroup = state.control_group or run.target_cgroup
    if not state.active_state.up and not (cgroup and ctx.ports.kernel.cgroup_pids(cgroup)):
        return Step(Signal.PASS, f"{target.unit} is not running")
    run.target_pids |= ctx.ports.kernel.cgroup_pids(cgroup) if cgroup else frozenset()
    run.target_tree = tree_of(ctx, run.target_pids)
    served = any(record.phase == State.VERIFY for record in run.change.phases)
    forced = await stop_unit(ctx, target, cgroup, None if served else LOADING_PATIENCE)
    await ctx.sleepers.forget(target.name)
    return Step(Signal.PASS, forced or f"{target.unit} is stopped")


async def _untouched(ctx: SlotContext, run: SwitchRun, target: ModelUnit, state: UnitState) -> bool:
    """A sleeper that nobody began to wake; one that somebody did may hold any part of its memory."""
    begun = any(record.phase == State.START for record in run.change.phases)
    return not begun and state.active_state in ASKED and await sleeps(ctx, target.name, timeout=PATIENT)


async def settle(ctx: SlotContext, run: SwitchRun) -> Step:
    """Decide where to go back to, and wait until there is room for it."""
    await _let_stops_finish(ctx, run)
    states = await ctx.briefs()
    sleeping = await asleep(ctx, states, timeout=PATIENT)
    up = awake(ctx, states, sleeping)
    previous = run.previous
    if previous is not None and previous.name in up:
        return Step(Signal.PASS, f"{previous.name} is up")
    if up:
        run.adopted = up[0]
        return Step(Signal.ADOPT, f"{up[0]} was started by somebody else and stays")
    if previous is None or not run.rollback:
        return Step(Signal.EMPTIED, "no model to go back to" if previous is None else "rollback was not wanted")
    # Of the previous model nothing may be left either: its own leftovers would make its new start fail.
    rests = previous.name in sleeping
    gone = run.target_pids - run.previous_pids if rests else run.target_pids | run.previous_pids
    step = await wait_for_previous(ctx, run, lambda: wait_vram(ctx, run, previous, gone))
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
    states = await ctx.briefs()
    sleeping = await asleep(ctx, states, timeout=PATIENT)
    others = [name for name in awake(ctx, states, sleeping) if name != previous.name]
    if others:
        run.adopted = others[0]
        return Step(Signal.ADOPT, f"{others[0]} was started by somebody else and stays")
    known, rests = states[previous.name].active_state, previous.name in sleeping
    try:
        if not rests:
            await ungate(ctx, run)
        started = await once_more(
            ctx, run, previous,
            lambda: _back(ctx, run, previous, known, rests=rests),
            lambda: _back(ctx, run, previous, ActiveState.INACTIVE, rests=False),
        )  # fmt: skip
    except AgentdError as error:
        return Step(Signal.FAIL, cause=f"{previous.name} does not come back: {error.message}")
    return Step(Signal.PASS, f"{previous.name} is serving again{f', {started.woken}' if started.woken else ''}")


async def _back(ctx: SlotContext, run: SwitchRun, previous: ModelUnit, known: ActiveState, *, rests: bool) -> Started:
    """One that is up and yet does not serve was caught half way into its sleep: it is ended and started, once."""
    try:
        started = await bring_up(ctx, run, previous, known, rests=rests)
        await _ready(ctx, run, started)
    except AgentdError as error:
        if known not in ASKED or previous.spec.switch == "stop":
            raise
        run.tell(f"{previous.name} is started anew: {error.message}")
        await end_unit(ctx, run, previous)
        started = await start_unit(ctx, previous, ActiveState.INACTIVE)
        await _ready(ctx, run, started)
    return started


async def _ready(ctx: SlotContext, run: SwitchRun, started: Started) -> None:
    previous = run.previous
    assert previous is not None
    limit = previous.spec.ready_timeout
    try:
        async with asyncio.timeout(limit):
            await await_ready(ctx, previous, started, LoadWatch(ctx, previous, started, run.tell))
    except TimeoutError:
        raise AgentdError("not-ready", f"{previous.unit} did not answer within {limit:g} s") from None
    if previous.spec.verify and not started.woken:
        await Endpoint(ctx.ports, previous).canary(previous.spec.verify_timeout)
    if started.job is not None:
        await asyncio.wait({started.job}, timeout=previous.spec.start_timeout)
