"""A sleeping model gets its GPU back: woken, opened for requests, and proven to say what it said before it slept."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.errors import AgentdError
from agentd.managers.models.admin import Admin, SleepError
from agentd.managers.models.context import ModelUnit, SlotContext
from agentd.managers.models.fingerprint import facts_of
from agentd.types import UnitState

CANARY_SECONDS = 5.0
"""For each of the two answers that are learned; a model that takes longer is not compared."""


@dataclass(frozen=True, slots=True)
class Woken:
    level: int
    seconds: float

    @property
    def told(self) -> str:
        return f"woken from level {self.level or 'unknown'} in {self.seconds:.2f} s"


async def wake(ctx: SlotContext, model: ModelUnit, state: UnitState) -> Woken:
    """Ends with the model serving; `state` is its unit's, as it sleeps. Raises SleepError; then it may hold any part of
    its memory and must be stopped."""
    admin, clock = Admin(ctx.ports, model), ctx.ports.clock
    level, begun = ctx.sleepers.levels.get(model.name) or await admin.level() or 0, clock.monotonic()
    await admin.wake(level, model.spec.wake_timeout)
    if await admin.sleeping(model.spec.wake_timeout) is not False:
        raise SleepError("error", f"{model.name} said that it is awake, and is not")
    await _open(admin)
    seconds = clock.monotonic() - begun
    known = await facts_of(ctx, model, state)
    await prove(ctx, model, known.canary)
    await ctx.sleepers.forget(model.name)
    if level:
        ctx.facts.aside(_learn(ctx, model, known.fingerprint, level, seconds))
    return Woken(level, seconds)


async def _open(admin: Admin) -> None:
    """A whole wake opens the gate by itself in most versions; saying it again does no harm."""
    try:
        await admin.resume()
    except AgentdError as error:
        raise SleepError("error", f"requests are still turned away: {error.message}") from error


async def prove(ctx: SlotContext, model: ModelUnit, known: str) -> None:
    """The same prompt gives the text that is known of the cold start; where that was never the same (""), some text."""
    if not model.spec.verify:
        return
    try:
        text = await Admin(ctx.ports, model).say(model.spec.verify_timeout)
    except AgentdError as error:
        late = error.kind == "probe-timeout"
        raise SleepError("timeout" if late else "error", f"awake, but no answer: {error.message}") from error
    if known and text != known:
        raise SleepError("garbage", f"{model.name} says something else after its wake than before: {text[:40]!r}")
    if not text:
        raise SleepError("garbage", f"{model.name} says nothing after its wake")


async def _learn(ctx: SlotContext, model: ModelUnit, fingerprint: str, level: int, seconds: float) -> None:
    await ctx.facts.learn_sleep(model.name, fingerprint, level, wake_seconds=seconds, failures=0)
    ctx.counters.add("agentd_model_wake", model.name, str(level), "done")


async def learn_start(ctx: SlotContext, model: ModelUnit) -> None:
    """After a cold start of a model that may sleep: what it says, and whether what was learned of its sleep still
    counts: not under another vLLM. Never a reason for a start to fail."""
    if model.spec.switch == "stop":
        return
    known = await facts_of(ctx, model)
    version = await Admin(ctx.ports, model).version() or known.version
    if version != known.version:
        old = known.sleep if not known.version else ()
        await ctx.facts.learn(model.name, known.fingerprint, version=version, sleep=old)
    await learn_canary(ctx, model)


async def learn_canary(ctx: SlotContext, model: ModelUnit) -> None:
    """What the model says, asked twice; "" when it does not say the same both times."""
    if not model.spec.verify:
        return
    admin, timeout = Admin(ctx.ports, model), min(model.spec.verify_timeout, CANARY_SECONDS)
    try:
        first, second = await admin.say(timeout), await admin.say(timeout)
    except AgentdError:
        first, second = "", ""
    known = await facts_of(ctx, model)
    await ctx.facts.learn(model.name, known.fingerprint, canary=first if first == second else "")
