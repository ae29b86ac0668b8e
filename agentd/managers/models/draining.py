"""DRAIN: requests in flight may finish, new ones are turned away meanwhile."""

from __future__ import annotations

import asyncio

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import Busy, ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.endpoint import Endpoint

BUSY_POLL = 0.25
"""Seconds between two looks at the request counts; after traffic was seen, zero must be seen twice."""


FRESH = 0.05
"""Seconds for which a count is as good as a new one: what comes next takes as long."""


async def count(ctx: SlotContext, run: SwitchRun) -> None:
    """Requests in flight on the previous model, beside the other checks: a server that was idle for long may take
    longer for its metrics than all of them."""
    if run.previous is not None:
        busy = await Endpoint(ctx.ports, run.previous).busy()
        run.counted = (ctx.ports.clock.monotonic(), busy)


async def _counted(ctx: SlotContext, run: SwitchRun, endpoint: Endpoint) -> Busy:
    """As counted a moment ago, or anew."""
    if run.counted is not None and ctx.ports.clock.monotonic() - run.counted[0] < FRESH:
        return run.counted[1]
    return await endpoint.busy()


async def drain(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS when no request is in flight or the policy says to abort them; REFUSE when it says to wait."""
    if run.previous is None:
        return Step(Signal.PASS, "nothing resident")
    endpoint = Endpoint(ctx.ports, run.previous)
    if run.drain <= 0:
        run.cut_off = (await _counted(ctx, run, endpoint)).requests != 0
        return Step(Signal.PASS, "not waiting for requests in flight")
    # Counted before the gate closes: where nothing runs there is nothing to gate, and no request to turn away.
    busy = await _counted(ctx, run, endpoint)
    if busy.requests == 0:
        return Step(Signal.PASS, busy.reason or "no request in flight")
    gate = asyncio.ensure_future(endpoint.pause(run.drain))
    run.gated = True
    try:
        async with asyncio.timeout(run.drain):
            await _until_quiet(endpoint)
        return Step(Signal.PASS, "requests in flight have finished")
    except TimeoutError:
        left = await endpoint.busy()
        if run.on_busy != "refuse" and left.requests:
            ctx.counters.add("agentd_drain_aborted_requests", run.previous.name, by=left.requests)
        return _undrained(run, left)
    finally:
        gate.cancel()
        await asyncio.wait({gate}, timeout=1.0)


async def _until_quiet(endpoint: Endpoint) -> None:
    zeros = 0
    while zeros < 2:
        await asyncio.sleep(BUSY_POLL)
        busy = await endpoint.busy()
        zeros = zeros + 1 if busy.requests == 0 else 0


def _undrained(run: SwitchRun, left: Busy) -> Step:
    assert run.previous is not None
    what = (
        f"{left.requests} requests" if left.requests is not None else f"an unknown number of requests ({left.reason})"
    )
    text = f"{what} still in flight on {run.previous.name} after {run.drain:g} s"
    if run.on_busy == "refuse":
        return Step(Signal.REFUSE, cause=f"{text}; nothing was stopped")
    run.cut_off = True
    return Step(Signal.PASS, f"{text}; they are aborted")


async def ungate(ctx: SlotContext, run: SwitchRun) -> None:
    """Open the gate of a model that stays after all."""
    if not run.gated or run.previous is None:
        return
    run.gated = False
    await reopen(ctx, run.previous)


async def reopen(ctx: SlotContext, model: ModelUnit) -> None:
    """Requests are let in again. Never for one that sleeps: they would wait in it for ever."""
    try:
        await Endpoint(ctx.ports, model).resume()
    except AgentdError:
        return  # It is gone or never had a gate; either way nothing is held back.
