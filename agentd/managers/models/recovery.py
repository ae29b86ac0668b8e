"""After a crash of agentd: read reality first, keep what is healthy, undo what was half done."""

from __future__ import annotations

import dataclasses

from agentd.core.switch import UNTOUCHED, Signal, State
from agentd.errors import AgentdError
from agentd.managers.models.asleep import asleep
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.draining import ungate
from agentd.managers.models.endpoint import Endpoint
from agentd.managers.models.slot import SlotOwner
from agentd.types import ActiveState, Change, Outcome
from agentd.wire import EXIT_CODES

CANARY_SECONDS = 15.0
PATIENT = 5.0
"""Seconds for a server to say whether it sleeps."""


async def recover(owner: SlotOwner, change: Change) -> Change | None:
    """Finish a change that was cut off. Returns it when reality already settles it, None when the way back is driven.

    The way back starts in CLEANUP as a run of the same change, so that its history stays in one place.
    """
    ctx = owner.ctx
    target = ctx.models.get(change.target) if change.target else None
    previous = ctx.models.get(change.previous) if change.previous else None
    phase = State(change.phase) if change.phase in State._value2member_map_ else State.CLEANUP
    run = SwitchRun(
        change=change,
        before=State.ACTIVE if previous is not None else State.IDLE,
        state=phase,
        path=[(State.PRECHECK, Signal.PASS)],
        target=target,
        previous=previous,
        gated=previous is not None,
        cause="agentd was cut off in this change",
    )
    if phase in UNTOUCHED:
        await ungate(ctx, run)  # Nothing was put to sleep yet; and a server that is only paused calls itself asleep.
    serving = await _serving(ctx)
    if previous is not None and serving == previous.name:
        await ungate(ctx, run)
    if phase in UNTOUCHED:
        return await _settled(owner, run, serving, Outcome.CANCELLED, "nothing was stopped")
    if change.target is None and change.previous is None:
        return await _settled(owner, run, serving, Outcome.CANCELLED, "what sleeps still is shown by: agentctl status")
    if target is not None and serving == target.name and await _healthy(ctx, target):
        return await _settled(owner, run, serving, Outcome.RECOVERED, f"{serving} was found serving and is kept")
    if previous is not None and serving == previous.name and await _healthy(ctx, previous):
        return await _settled(owner, run, serving, Outcome.ROLLED_BACK, f"{serving} was found serving and is kept")
    run.path.append((phase, Signal.CRASH))
    run.state = State.CLEANUP
    owner.launch(run)
    return None


async def _serving(ctx: SlotContext) -> str | None:
    """The one model that is up and not asleep. What is on its way to sleep does not answer, and was noted."""
    states = await ctx.briefs()
    sleeping = await asleep(ctx, states, timeout=PATIENT)
    up = (ActiveState.ACTIVE, ActiveState.ACTIVATING)
    found = [n for n in ctx.models if states[n].active_state in up and n not in sleeping]
    return found[0] if len(found) == 1 else None


async def _healthy(ctx: SlotContext, model: ModelUnit) -> bool:
    """Healthy means a token, not a port: a model that only loads is not worth keeping over the one before."""
    endpoint = Endpoint(ctx.ports, model)
    try:
        if not await endpoint.healthy() or model.spec.served_name not in await endpoint.served_names():
            return False
        if model.spec.verify:
            await endpoint.canary(CANARY_SECONDS)
    except AgentdError:
        return False
    return True


async def _settled(owner: SlotOwner, run: SwitchRun, serving: str | None, outcome: Outcome, how: str) -> Change:
    """Only where the target serves did the change do what was asked, and who waits for it is told so."""
    if serving is not None:
        await owner.ctx.sleepers.forget(serving)  # Noted when it was told to sleep; it serves.
    owner.resident = serving
    owner.state = State.ACTIVE if serving is not None else State.IDLE
    if outcome is Outcome.RECOVERED:
        record = dataclasses.replace(owner.record, desired=serving, decided=True)
        await owner.save(dataclasses.replace(record, lease_until=None, lease_restore=None))
    owner.publish()
    return dataclasses.replace(
        run.change,
        finished=owner.ctx.ports.clock.time(),
        phase=owner.state.value,
        outcome=outcome,
        exit_code=EXIT_CODES[outcome].value,
        cause=run.cause,
        message=f"{run.change.kind} was cut off by an end of agentd; {how}",
    )
