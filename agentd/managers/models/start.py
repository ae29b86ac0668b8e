"""START, WAIT_READY and VERIFY: the unit runs, the right model answers, and it can do work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from agentd.core.explain import explain
from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun, wait_any
from agentd.managers.models.endpoint import Endpoint
from agentd.ports import Job
from agentd.types import ActiveState, JobResult, UnitState

JOURNAL_LINES = 100
"""vLLM writes its root cause well above its last traceback."""
SETTLE_SECONDS = 2.0
FIRST_POLL, LAST_POLL = 0.004, 0.25
"""Seconds between two looks: short at first, later a two-hundredth of the time waited, so that a server that
loads for a second is seen within 5 ms and one that loads for a minute costs next to nothing."""


@dataclass(slots=True)
class Started:
    """A model's unit on its way up."""

    pid: int = 0
    cgroup: str = ""
    job: asyncio.Task[JobResult] | None = None


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
                    raise AgentdError("start-failed", await _why(ctx, model, state, waiter.result()))
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
    states = await ctx.briefs()
    others = [name for name, state in states.items() if state.active_state.up and name != run.target.name]
    if others:
        return Step(Signal.FAIL, cause=f"{', '.join(others)} was started by somebody else meanwhile")
    started = await start_unit(ctx, run.target, states[run.target.name].active_state)
    run.target_pid, run.target_cgroup, run.start_job = started.pid, started.cgroup, started.job
    return Step(Signal.PASS, f"main process {started.pid}")


async def wait_ready(ctx: SlotContext, run: SwitchRun) -> Step:
    assert run.target is not None
    seconds = await await_ready(ctx, run.target, Started(run.target_pid, run.target_cgroup, run.start_job))
    return Step(Signal.PASS, f"answers after {seconds:.2f} s")


async def verify(ctx: SlotContext, run: SwitchRun) -> Step:
    """A one-token completion, then: still the same main process, and systemd agrees that it is started."""
    target = run.target
    assert target is not None
    if target.spec.verify:
        await Endpoint(ctx.ports, target).canary(target.spec.verify_timeout)
    if run.start_job is not None:
        result = await run.start_job
        if result is not JobResult.DONE and result is not JobResult.LOST:
            state = await ctx.ports.control.show(target.unit)
            return Step(Signal.FAIL, cause=await _why(ctx, target, state, result))
    state = await ctx.ports.control.show(target.unit)
    if state.main_pid != run.target_pid or not state.active_state.up:
        return Step(Signal.FAIL, cause=await _why(ctx, target, state, None))
    run.target_pids = ctx.ports.kernel.cgroup_pids(run.target_cgroup)
    return Step(Signal.PASS, "one token came back" if target.spec.verify else "not asked for")


async def await_ready(ctx: SlotContext, model: ModelUnit, started: Started) -> float:
    """Seconds until it listened, was healthy and listed the served name.

    Raises AgentdError at once when the main process ends, the unit leaves its state, or another model answers.
    """
    clock = ctx.ports.clock
    begun = clock.monotonic()
    endpoint = Endpoint(ctx.ports, model)
    async with _watched(ctx, model, started) as wake:
        while True:
            if wake.is_set():
                wake.clear()
                await _still_running(ctx, model, started)
            if await _answers(ctx, model, endpoint, started):
                return clock.monotonic() - begun
            waited = clock.monotonic() - begun
            await _pause(wake, min(LAST_POLL, max(FIRST_POLL, waited / 200)))


async def _pause(wake: asyncio.Event, seconds: float) -> None:
    """As wait_any, but the event stays set for the caller to see."""
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        pass


@asynccontextmanager
async def _watched(ctx: SlotContext, model: ModelUnit, started: Started) -> AsyncIterator[asyncio.Event]:
    """An event that is set when the main process ends or systemd says something about the unit."""
    wake = ctx.wakes.register(model.unit)
    exit_watch = ctx.ports.kernel.watch_exit(started.pid, wake.set) if started.pid else None
    if started.pid and exit_watch is None:
        wake.set()
    try:
        yield wake
    finally:
        if exit_watch is not None:
            exit_watch.close()
        ctx.wakes.unregister(model.unit, wake)


async def _still_running(ctx: SlotContext, model: ModelUnit, started: Started) -> None:
    state = await ctx.ports.control.show(model.unit)
    alive = state.main_pid == started.pid and state.active_state in (ActiveState.ACTIVE, ActiveState.ACTIVATING)
    gone = started.pid and not ctx.ports.kernel.comm(started.pid)
    if not alive or gone:
        result = started.job.result() if started.job is not None and started.job.done() else None
        raise AgentdError("start-failed", await _why(ctx, model, state, result))


async def _answers(ctx: SlotContext, model: ModelUnit, endpoint: Endpoint, started: Started) -> bool:
    try:
        await ctx.ports.prober.tcp(model.host, model.port, timeout=1.0)
        if not await endpoint.healthy():
            return False
    except AgentdError:
        return False
    _refuse_stranger(ctx, model, started)
    try:
        names = await endpoint.served_names()
    except AgentdError as error:
        if error.kind == "probe-timeout":
            return False
        raise
    if model.spec.served_name not in names:
        listed = ", ".join(names) or "nothing"
        raise AgentdError("wrong-model", f"{model.url} serves {listed}, not {model.spec.served_name}")
    return True


def _refuse_stranger(ctx: SlotContext, model: ModelUnit, started: Started) -> None:
    """An answer on the port proves nothing when somebody else's process gives it."""
    holder = ctx.ports.kernel.port_holder(model.port)
    if holder is None or not holder.pid or not started.cgroup:
        return
    if holder.pid not in ctx.ports.kernel.cgroup_pids(started.cgroup):
        text = f"port {model.port} is answered by {holder.comm} (pid {holder.pid}), which is not {model.unit}"
        raise AgentdError("port-taken", text)


async def _why(ctx: SlotContext, model: ModelUnit, state: UnitState, result: JobResult | None) -> str:
    """Why the unit is not running, in one sentence with its last words."""
    state = await _final(ctx, model, state)
    lines = await ctx.ports.journal.tail(
        model.unit, lines=JOURNAL_LINES, invocation=state.invocation_id, pid=state.exec_pid
    )
    if result is JobResult.CANCELED or (result is None and not state.active_state.up and state.result == "success"):
        return f"{model.unit} was stopped by somebody else while it started"
    return explain(state, lines, result)


async def _final(ctx: SlotContext, model: ModelUnit, state: UnitState) -> UnitState:
    """The kernel says that the process is gone some moments before systemd has drawn its conclusion."""
    wake = ctx.wakes.register(model.unit)
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while state.active_state in (ActiveState.ACTIVE, ActiveState.ACTIVATING, ActiveState.DEACTIVATING):
                if state.sub_state == "auto-restart":
                    break
                await wait_any(wake, 0.05)
                state = await ctx.ports.control.show(model.unit)
    except TimeoutError:
        pass
    finally:
        ctx.wakes.unregister(model.unit, wake)
    return state
