"""WAIT_READY: the right model answers on the unit's port, and its main process is still the one that was started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.endpoint import Endpoint
from agentd.managers.models.failure import start_failed
from agentd.managers.models.listening import accepts, listener, place
from agentd.managers.models.loading import LoadWatch
from agentd.managers.models.start import Started
from agentd.types import ActiveState

FIRST_POLL, LAST_POLL = 0.004, 0.25
"""Seconds between two looks: short at first, later a two-hundredth of the time waited, so that a server that
loads for a second is seen within 5 ms and one that loads for a minute costs next to nothing."""
SOON_POLL = 0.01
"""At most, when its log says that it is about to answer."""


async def wait_ready(ctx: SlotContext, run: SwitchRun) -> Step:
    assert run.target is not None
    if run.woken and run.target.spec.verify:
        return Step(Signal.PASS, "it has answered when it was woken")
    started = Started(run.target_pid, run.target_cgroup, run.start_job)
    watch = LoadWatch(ctx, run.target, started, run.tell)
    seconds = await await_ready(ctx, run.target, started, watch)
    told = watch.took(seconds)
    if not run.woken and not run.found_up:
        watch.learn(seconds)
    return Step(Signal.PASS, told)


async def await_ready(ctx: SlotContext, model: ModelUnit, started: Started, watch: LoadWatch | None = None) -> float:
    """Seconds until it listened, was healthy and listed the served name.

    Raises AgentdError at once when the main process ends, the unit leaves its state, another model answers, or the
    load stands still.
    """
    watch = watch or LoadWatch(ctx, model, started)
    async with _watched(ctx, model, started) as wake:
        with watch.open(wake):
            return await _polled(ctx, model, started, watch, wake)


async def _polled(ctx: SlotContext, model: ModelUnit, started: Started, watch: LoadWatch, wake: asyncio.Event) -> float:
    clock, endpoint = ctx.ports.clock, Endpoint(ctx.ports, model)
    begun = clock.monotonic()
    while True:
        watch.check()
        if wake.is_set():
            wake.clear()
            await _still_running(ctx, model, started)
        if await _answers(ctx, model, endpoint, started):
            return clock.monotonic() - begun
        waited = clock.monotonic() - begun
        slowest = SOON_POLL if watch.answers_soon() else LAST_POLL
        await _pause(wake, min(slowest, max(FIRST_POLL, waited / 200)))


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
        raise await start_failed(ctx, model, state, result, started.pid)


async def _answers(ctx: SlotContext, model: ModelUnit, endpoint: Endpoint, started: Started) -> bool:
    try:
        if not await accepts(ctx.ports, model) or not await endpoint.healthy():
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
    holder = listener(ctx.ports.kernel, model)
    if holder is None or not holder.pid or not started.cgroup:
        return
    if holder.pid not in ctx.ports.kernel.cgroup_pids(started.cgroup):
        text = f"{place(model)} is answered by {holder.comm} (pid {holder.pid}), which is not {model.unit}"
        raise AgentdError("port-taken", text)
