"""START and VERIFY: the unit runs, and it can do work. What lies between is in readiness.py."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from dataclasses import dataclass

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models import budget, checking
from agentd.managers.models.asleep import ASKED, asleep, awake
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun, wait_any
from agentd.managers.models.draining import reopen
from agentd.managers.models.endpoint import Endpoint
from agentd.managers.models.eviction import recheck
from agentd.managers.models.failure import start_failed, why
from agentd.managers.models.release import stop_unit
from agentd.managers.models.vram import wait_vram
from agentd.managers.models.waking import learn_start
from agentd.ports import Job
from agentd.types import ActiveState, JobResult, UnitState

PATIENT = 5.0
"""Seconds for a server to say whether it sleeps, where much hangs on it."""


@dataclass(slots=True)
class Started:
    """A model's unit on its way up."""

    pid: int = 0
    cgroup: str = ""
    job: asyncio.Task[JobResult] | None = None
    woken: str = ""
    """How it was woken, where it was; it has answered then."""
    instead: str = ""
    """Why it was started although it was asleep."""


async def start_unit(ctx: SlotContext, model: ModelUnit, known: ActiveState | None = None) -> Started:
    """Queue the start and wait for a main process; with ExecStartPost= the job itself goes on. `known` is the unit's
    state where the caller has just read it.

    Raises AgentdError naming why the unit did not start.
    """
    control = ctx.ports.control
    wake = ctx.wakes.register(model.unit)
    try:
        job = await _queue(ctx, model, known)
        waiter = asyncio.ensure_future(_outcome(job, model.spec.ready_timeout + model.spec.start_timeout))
        waiter.add_done_callback(lambda _: wake.set())
        while True:
            # systemd runs a job when no message waits to be answered: a question now would delay the start itself.
            await wait_any(wake, 0.05)
            state = await control.show(model.unit)
            if state.main_pid and state.active_state in (ActiveState.ACTIVE, ActiveState.ACTIVATING):
                return Started(state.main_pid, state.control_group, waiter)
            if waiter.done():
                if waiter.result() is JobResult.LOST:
                    waiter = await _after_loss(ctx, model, state, waiter)
                    continue
                if waiter.result() is not JobResult.DONE or not state.active_state.up:
                    raise await start_failed(ctx, model, state, waiter.result())
                return Started(state.main_pid, state.control_group, waiter)
    finally:
        ctx.wakes.unregister(model.unit, wake)


async def _queue(ctx: SlotContext, model: ModelUnit, known: ActiveState | None) -> Job:
    """The start limit is there for crashes: starts that were asked for, five in half an hour, must not use it up."""
    control = ctx.ports.control
    state = known or (await control.list([model.unit]))[model.unit].active_state
    if state is ActiveState.FAILED or state is ActiveState.INACTIVE:
        with suppress(AgentdError):  # Not loaded: then systemd has forgotten its count as well.
            await control.reset_failed(model.unit)
    return await control.start(model.unit)


async def _after_loss(
    ctx: SlotContext, model: ModelUnit, state: UnitState, waiter: asyncio.Task[JobResult]
) -> asyncio.Task[JobResult]:
    """The bus went away with the job's result: what the unit does is the answer, and a start may be asked for twice."""
    if state.active_state.up:
        return waiter
    job = await _queue(ctx, model, state.active_state)
    return asyncio.ensure_future(_outcome(job, model.spec.ready_timeout + model.spec.start_timeout))


async def _outcome(job: Job, timeout: float) -> JobResult:
    try:
        return await job.wait(timeout)
    except AgentdError:
        return JobResult.TIMEOUT


async def start(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS when the target has a main process; never while another model of the slot is up."""
    assert run.target is not None
    again = await recheck(ctx, run)
    if again is not None:
        return again
    states = await ctx.briefs()
    sleeping = await asleep(ctx, states, timeout=PATIENT)
    others = [name for name in awake(ctx, states, sleeping) if name != run.target.name]
    if others:
        return Step(Signal.FAIL, cause=f"{', '.join(others)} was started by somebody else meanwhile")
    known = states[run.target.name].active_state
    started = await bring_up(ctx, run, run.target, known, rests=run.target.name in sleeping)
    run.target_pid, run.target_cgroup, run.start_job = started.pid, started.cgroup, started.job
    run.woken = bool(started.woken)
    run.found_up = known in (*ASKED, ActiveState.ACTIVATING) and not (started.woken or started.instead)
    run.change = dataclasses.replace(run.change, way="wake" if run.woken else "cold")
    return Step(Signal.PASS, started.woken or f"main process {started.pid}{started.instead}")


async def bring_up(ctx: SlotContext, run: SwitchRun, model: ModelUnit, known: ActiveState, *, rests: bool) -> Started:
    """A sleeper (`rests`) is woken; when that fails it is ended, its memory waited for, and it is started like any
    other.

    Raises AgentdError naming why the unit did not start.
    """
    instead = ""
    if rests:
        try:
            state = await ctx.ports.control.show(model.unit)
            told = await checking.rounds(ctx, run, model, state)
            return Started(state.main_pid, state.control_group, woken=told)
        except AgentdError as error:
            instead = f"; started anew: {error.message}"
        run.tell(instead.removeprefix("; "))
        await end_unit(ctx, run, model)
        known = ActiveState.INACTIVE
    elif model.name in ctx.sleepers.levels:
        await ctx.sleepers.forget(model.name)
        await reopen(ctx, model)
    started = await start_unit(ctx, model, known)
    started.instead = instead
    return started


async def end_unit(ctx: SlotContext, run: SwitchRun, model: ModelUnit) -> None:
    """What is left of a wake that failed holds any part of its memory."""
    state = await ctx.ports.control.show(model.unit)
    pids = ctx.ports.kernel.cgroup_pids(state.control_group)
    await stop_unit(ctx, model, state.control_group)
    await ctx.sleepers.forget(model.name)
    step = await wait_vram(ctx, run, model, pids)
    if step.signal is Signal.FAIL:
        raise AgentdError("vram-timeout", step.cause)


async def verify(ctx: SlotContext, run: SwitchRun) -> Step:
    """A one-token completion, then: still the same main process, and systemd agrees that it is started."""
    target = run.target
    assert target is not None
    if target.spec.verify and not run.woken:
        await Endpoint(ctx.ports, target).canary(target.spec.verify_timeout)
    if run.start_job is not None:
        result = await run.start_job
        if result is not JobResult.DONE and result is not JobResult.LOST:
            state = await ctx.ports.control.show(target.unit)
            return Step(Signal.FAIL, cause=await why(ctx, target, state, result, run.target_pid))
    state = await ctx.ports.control.show(target.unit)
    if state.main_pid != run.target_pid or not state.active_state.up:
        return Step(Signal.FAIL, cause=await why(ctx, target, state, None, run.target_pid))
    run.target_pids = ctx.ports.kernel.cgroup_pids(run.target_cgroup)
    if not run.woken:
        await learn_start(ctx, target)
        ctx.facts.aside(budget.learn(ctx, target))
    return Step(Signal.PASS, told_proof(target, woken=run.woken))


def told_proof(target: ModelUnit, *, woken: bool) -> str:
    if not target.spec.verify:
        return "not asked for"
    return "it said the same as before its sleep" if woken else "one token came back"
