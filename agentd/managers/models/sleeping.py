"""A model goes to sleep: requests are turned away, none is left, it sleeps, and its GPU memory has really come back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentd.core.quantities import told_bytes
from agentd.errors import AgentdError
from agentd.gpu import GpuSnapshot
from agentd.managers.models.admin import Admin, SleepError
from agentd.managers.models.admission import is_measured
from agentd.managers.models.context import ModelUnit, SlotContext
from agentd.managers.models.fingerprint import facts_of
from agentd.managers.models.holders import held_by

QUIET_SECONDS = 5.0
"""Until the last request has gone after a pause; the drain was before."""
FREED_SECONDS = 5.0
"""Until the memory is seen to be back; a driver takes its time."""
FREED_SHARE = 0.8
POLL = 0.1


@dataclass(frozen=True, slots=True)
class Slept:
    """What a sleep brought. Bytes; 0 where they could not be measured."""

    level: int
    seconds: float
    freed: int
    residual: int
    host: int
    left: GpuSnapshot
    """The GPUs with the model asleep."""

    @property
    def told(self) -> str:
        freed = f", {told_bytes(self.freed)} of GPU memory freed" if self.freed else ", GPU memory is not measured here"
        return f"sleeps at level {self.level} after {self.seconds:.2f} s{freed}"


async def put_to_sleep(ctx: SlotContext, model: ModelUnit, level: int) -> Slept:
    """Ends with the model asleep and paused. Raises SleepError; then it is in no state that could be relied on."""
    admin, clock = Admin(ctx.ports, model), ctx.ports.clock
    memory, begun = ctx.ports.kernel.memory_available(), clock.monotonic()
    before, _ = await asyncio.gather(ctx.ports.gpus.read(), _hold(admin, model))
    await ctx.sleepers.note(model.name, level)
    await admin.sleep(level, model.spec.sleep_timeout)
    if await admin.sleeping(model.spec.sleep_timeout) is not True:
        raise SleepError("not-asleep", f"{model.name} said that it sleeps, and does not")
    seconds = clock.monotonic() - begun
    freed, residual, left = await _freed(ctx, model, before)
    return Slept(level, seconds, freed, residual, max(0, memory - ctx.ports.kernel.memory_available()), left)


async def _hold(admin: Admin, model: ModelUnit) -> None:
    """A sleep with a request in work kills the engine: the pause comes first, and the count is proven to be zero."""
    busy = await admin.busy()
    await admin.hold("wait" if busy.requests == 0 else "abort", QUIET_SECONDS)
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            busy = await admin.busy()
            while busy.requests != 0:
                await asyncio.sleep(POLL)
                busy = await admin.busy()
    except TimeoutError:
        left = f"{busy.requests} requests" if busy.requests is not None else f"unknown requests ({busy.reason})"
        raise SleepError("busy", f"{left} in work on {model.name} although it is paused") from None


async def _freed(ctx: SlotContext, model: ModelUnit, before: GpuSnapshot) -> tuple[int, int, GpuSnapshot]:
    """Bytes that came back, bytes that stay, and the GPUs then. Raises SleepError when it was less than four fifths."""
    if not is_measured(ctx, before):
        return 0, 0, before
    had = sum(held_by(ctx, before, model).values())
    alone = had > 0
    had = had or _used(ctx, before)
    has, deadline = had, ctx.ports.clock.monotonic() + FREED_SECONDS
    while True:
        now = await ctx.ports.gpus.read()
        if is_measured(ctx, now):
            has = sum(held_by(ctx, now, model).values()) if alone else _used(ctx, now)
        if had - has >= FREED_SHARE * had:
            return had - has, has, now
        if ctx.ports.clock.monotonic() >= deadline:
            raise SleepError("kept-memory", f"{model.name} sleeps and keeps {told_bytes(has)} of {told_bytes(had)}")
        await asyncio.sleep(POLL)


def _used(ctx: SlotContext, snapshot: GpuSnapshot) -> int:
    return sum(gpu.used for gpu in snapshot.gpus if gpu.index in ctx.slot.gpus)


async def learn_slept(ctx: SlotContext, model: ModelUnit, slept: Slept) -> None:
    state = await ctx.ports.control.show(model.unit)
    if slept.level == 1:
        ctx.sleepers.pinned[model.name] = state.main_pid
    values: dict[str, object] = {"sleep_seconds": slept.seconds}
    measured = {"freed": slept.freed, "residual": slept.residual, "host_bytes": slept.host}
    values |= {key: value for key, value in measured.items() if value}
    known = await facts_of(ctx, model, state)
    await ctx.facts.learn_sleep(model.name, known.fingerprint, slept.level, **values)
    ctx.counters.add("agentd_model_sleep", model.name, str(slept.level), "done")


async def failed(ctx: SlotContext, model: ModelUnit, level: int, error: AgentdError, *, after: str) -> None:
    """One failure more of a level; a wrong answer after a wake makes it useless at once. `after`: "sleep" or "wake"."""
    reason = error.reason if isinstance(error, SleepError) else "error"
    known = await facts_of(ctx, model)
    values: dict[str, object] = {"failures": known.level(level).failures + 1}
    if reason == "garbage":
        values["broken"] = error.message
    await ctx.facts.learn_sleep(model.name, known.fingerprint, level, **values)
    ctx.counters.add(f"agentd_model_{after}", model.name, str(level), "failed")
    tell_fallback(ctx, model, level, reason, error.message, instead="stopped" if after == "sleep" else "started anew")


def tell_fallback(ctx: SlotContext, model: ModelUnit, level: int, reason: str, why: str, *, instead: str) -> None:
    ctx.counters.add("agentd_sleep_fallback", model.name, reason)
    text = f"{model.name} is {instead}: {why}"
    ctx.tell("sleep.fallback", model.name, text, slot=ctx.name, level=level, reason=reason)
