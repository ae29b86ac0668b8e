"""Waiting for GPU memory while a runtime's clients may load its models again: seen soon, not when the time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import SlotContext, SwitchRun
from agentd.managers.models.eviction import RETRIES, evict_one, recheck, reloaded
from agentd.managers.models.occupancy import occupancy

LOOK_EVERY = 2.0
"""Seconds; a question of a few milliseconds beside NVML, which is read ten times a second."""


async def wait_for_target(ctx: SlotContext, run: SwitchRun, waiting: Awaitable[Step]) -> Step:
    """What `waiting` says, or RETRY or FAIL as soon as a runtime has loaded a model again."""
    if run.target is None or not ctx.runtimes:
        return await waiting
    return await _until(waiting, lambda: recheck(ctx, run))


async def wait_for_previous(ctx: SlotContext, run: SwitchRun, wait: Callable[[], Awaitable[Step]]) -> Step:
    """On the way back: runtimes are evicted for the model before, too. Where one of them never leaves, the slot stays
    empty with that cause; it is no GPU that is stuck."""
    if not ctx.runtimes:
        return await wait()
    until = ctx.ports.clock.monotonic() + ctx.slot.evict_timeout
    for _ in range(RETRIES):
        refused = await _evict_all(ctx, run, until)
        step = await _until(wait(), lambda: _interruption(ctx))
        if step.signal is not Signal.RETRY:
            break
    else:  # Whoever loads again and again may yet leave room enough: what is free decides.
        refused = await _evict_all(ctx, run, until)
        step = await wait()
    if step.signal is Signal.PASS:
        return step
    holder = await _in_the_way(ctx)
    if not holder:
        return step
    return Step(Signal.EMPTIED, f"no room to go back: {refused or step.cause or f'{holder} holds GPU memory again'}")


def seconds(ctx: SlotContext) -> float:
    """The longest that `wait_for_previous` may take: every wait may be given up for one more eviction."""
    return ctx.slot.evict_timeout + ctx.slot.vram_timeout * (RETRIES + 1 if ctx.runtimes else 1)


async def _until(waiting: Awaitable[Step], interruption: Callable[[], Awaitable[Step | None]]) -> Step:
    """The result of `waiting`, or the first interruption, for which it is given up."""
    task = asyncio.ensure_future(waiting)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_EVERY)
            if done:
                return task.result()
            found = await interruption()
            if found is not None:
                return found
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _interruption(ctx: SlotContext) -> Step | None:
    name, what = await reloaded(ctx)
    return Step(Signal.RETRY, what) if name else None


async def _evict_all(ctx: SlotContext, run: SwitchRun, until: float) -> str:
    """Why one of them did not leave, "" when none was in the way."""
    for name in ctx.runtimes:
        try:
            await evict_one(ctx, run, name, until)
        except AgentdError as error:
            return error.message
    return ""


async def _in_the_way(ctx: SlotContext) -> str:
    """A runtime that holds GPU memory and was to leave, by the driver or, where that names nobody, by its own word."""
    for name, runtime in ctx.runtimes.items():
        held = await occupancy(ctx, runtime) if runtime.spec.policy != "ignore" else None
        if held is not None and held.pids:
            return name
    return (await reloaded(ctx))[0]
