"""sleep-check: the resident model is put to sleep and woken, twice, measured and compared, as a change of its slot.

It goes the way of a switch from the model to itself, so that whatever happens on the way, the model comes back by the
same steps as after any other switch.
"""

from __future__ import annotations

from agentd.core.sleep_policy import verdict
from agentd.core.switch import Signal, State
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.admission import question
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.draining import reopen
from agentd.managers.models.fingerprint import facts_of
from agentd.managers.models.precheck import precheck as precheck_target
from agentd.managers.models.releaser import STOP, Sleeping, restorer
from agentd.managers.models.waking import learn_canary
from agentd.types import UnitState

KIND = "sleep-check"


async def precheck(ctx: SlotContext, run: SwitchRun) -> Step:
    """PRECHECK: what speaks against a sleep is told before anything is touched."""
    assert run.target is not None
    step = await precheck_target(ctx, run)
    if step.signal is not Signal.PASS:
        return step
    why = Sleeping(run.level).admit(await question(ctx, run, run.target))
    return Step(Signal.REFUSE, cause=why) if why else step


async def release(ctx: SlotContext, run: SwitchRun) -> Step:
    """The first sleep. One that fails ends in a stop; START brings the model back then."""
    assert run.target is not None
    await reopen(ctx, run.target)
    await learn_canary(ctx, run.target)
    try:
        return Step(Signal.PASS, await Sleeping(run.level).release(ctx, run, run.target))
    except AgentdError as error:
        await _broken(ctx, run, run.target, error.message)
        return Step(Signal.PASS, f"{await STOP.release(ctx, run, run.target)}: {error.message}")


async def rounds(ctx: SlotContext, run: SwitchRun, model: ModelUnit, state: UnitState) -> str:
    """START of a model that sleeps: woken, and in a check put to sleep and woken once more; on the way back only woken.
    Raises AgentdError."""
    if run.change.kind != KIND or run.state is not State.START:
        return await restorer(ctx, model).restore(ctx, model, state)
    try:
        first = await restorer(ctx, model).restore(ctx, model, state)
        await Sleeping(run.level).release(ctx, run, model)
        second = await restorer(ctx, model).restore(ctx, model, state)
    except AgentdError as error:
        await _broken(ctx, run, model, error.message)
        raise
    values = {"checked": ctx.ports.clock.time(), "failures": 0, "broken": ""}
    known = await facts_of(ctx, model, state)
    await ctx.facts.learn_sleep(model.name, known.fingerprint, run.level, **values)
    return f"{first}; {second}"


async def _broken(ctx: SlotContext, run: SwitchRun, model: ModelUnit, why: str) -> None:
    values = {"checked": ctx.ports.clock.time(), "broken": why}
    known = await facts_of(ctx, model)
    await ctx.facts.learn_sleep(model.name, known.fingerprint, run.level, **values)


def told(ctx: SlotContext, run: SwitchRun) -> str:
    assert run.target is not None
    return f"sleep level {run.level} of {run.target.name}: {verdict(ctx.facts.of(run.target.name), run.level)}"
