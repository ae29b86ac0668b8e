"""What a request means before it is one: the dry run of a switch, and a sleep-check. Nothing is changed."""

from __future__ import annotations

from agentd.core.sleep_policy import level_of, refusal
from agentd.core.switch import FORWARD, State
from agentd.errors import AgentdError
from agentd.managers.models.admission import question
from agentd.managers.models.context import ModelUnit
from agentd.managers.models.memory import Ask
from agentd.managers.models.precheck import checks
from agentd.managers.models.slot import SlotOwner
from agentd.wire import PrecheckItem, SleepCheckRequest, SwitchPlan, SwitchRequest


async def plan(owner: SlotOwner, request: SwitchRequest, estimate: float | None) -> SwitchPlan:
    """`estimate`: seconds that the switch is expected to take, None when nobody knows."""
    ctx = owner.ctx
    target = ctx.models[request.target]
    previous = ctx.models.get(owner.resident) if owner.resident is not None else None
    same = previous is not None and previous.name == target.name
    items = await checks(ctx, target)
    items += _slot(owner, Ask("switch", target.name, force=request.force))
    if previous is not None and not same and previous.spec.switch != "stop":
        items = (*items, await _release(owner, previous, target))
    if target.name in ctx.sleeping:
        level = ctx.sleepers.levels[target.name]
        items = (*items, PrecheckItem("start", True, f"{target.name} would be woken from level {level or 'unknown'}"))
        estimate = _waking(owner, target, previous) or estimate
    return SwitchPlan(
        slot=ctx.name, target=target.name, previous=owner.resident, ok=all(i.ok for i in items), checks=items,
        steps=() if same else tuple(s.value for s in FORWARD), estimate_seconds=estimate,
    )  # fmt: skip


def _waking(owner: SlotOwner, target: ModelUnit, previous: ModelUnit | None) -> float:
    """Seconds that it is expected to take, of what was measured; 0.0: not known."""
    known, level = owner.ctx.facts.of(target.name), owner.ctx.sleepers.levels[target.name]
    wakes = known.level(level).wake_seconds
    if previous is None or not wakes:
        return wakes
    return wakes + owner.ctx.facts.of(previous.name).level(level_of(previous.spec.switch)).sleep_seconds


def _slot(owner: SlotOwner, ask: Ask) -> tuple[PrecheckItem, ...]:
    """Why the slot would not take the request now."""
    name, found = owner.ctx.name, []
    if owner.run is not None:
        found.append(PrecheckItem("slot", False, f"{owner.run.change.id} is running in slot {name}"))
    elif owner.state is State.WEDGED and not ask.force:
        found.append(PrecheckItem("slot", False, f"slot {name} is wedged: {owner.cause}"))
    why = owner.refusal(ask)
    if why:
        found.append(PrecheckItem("lease" if owner.state is State.LEASED else "cooldown", False, why))
    return tuple(found)


async def _release(owner: SlotOwner, previous: ModelUnit, target: ModelUnit) -> PrecheckItem:
    """What would become of the model that serves now; a sleep that is refused is no reason against the switch."""
    run = owner.run_for(Ask("switch", target.name))
    why = refusal(await question(owner.ctx, run, previous))
    level = level_of(previous.spec.switch)
    detail = f"{previous.name} would be stopped: {why}" if why else f"{previous.name} would sleep at level {level}"
    return PrecheckItem("release", True, detail)


def sleep_check_ask(owner: SlotOwner, request: SleepCheckRequest) -> Ask:
    """Raises AgentdError("not-resident") for a model that does not serve, "bad-request" for a level that is none."""
    model = request.model
    if request.level not in (0, 1, 2):
        raise AgentdError("bad-request", f"there is no sleep level {request.level}; levels: 1, 2")
    level = request.level or level_of(owner.ctx.models[model].spec.switch) or 1
    if owner.run is None and (owner.resident != model or owner.state is not State.ACTIVE):
        hint = f"make it so with: agentctl switch-model {model}"
        raise AgentdError("not-resident", f"{model} is not resident", hint=hint)
    return Ask("sleep-check", model, request.drain, request.on_busy, level=level)
