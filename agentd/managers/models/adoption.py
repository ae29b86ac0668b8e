"""What happened to a slot without us: a model started by hand, one that died, one that somebody stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from agentd.core.switch import State
from agentd.engine.events import EventLog
from agentd.managers.models import dozing
from agentd.managers.models.failure import why_ended
from agentd.managers.models.slot import SlotOwner
from agentd.types import ActiveState, UnitState

RUNNING = (ActiveState.ACTIVE, ActiveState.ACTIVATING, ActiveState.RELOADING, ActiveState.REFRESHING)


async def look(owner: SlotOwner, events: EventLog) -> None:
    """Compare the slot with reality and take note; the only thing it ever stops is a second model."""
    if owner.busy():
        return
    undisturbed = owner.still()
    states = await owner.ctx.briefs()
    if not undisturbed():
        return  # A request came in while systemd was asked; its own reads count now.
    sleeping = await dozing.look(owner, events, states)
    if not undisturbed():
        return
    running = [n for n in owner.ctx.models if states[n].active_state in RUNNING and n not in sleeping]
    if len(running) > 1 and owner.ctx.slot.exclusive:
        running = await _keep_one(owner, events, running)
        if not undisturbed():
            return
    resident = owner.resident if owner.resident in running else (running[0] if running else None)
    if resident == owner.resident:
        return
    if resident is None and any(states[name].job in ("start", "restart") for name in owner.ctx.models):
        return  # Between the stop of one model and the start of the other; the start's own news leads here again.
    if resident is None and _ending(owner, states):
        return  # Stopped, or about to be restarted after a crash: its own news leads here again when that is known.
    if resident is None:
        await _lost(owner, events, asleep=owner.resident in sleeping)
    else:
        await _adopt(owner, events, resident)


def _ending(owner: SlotOwner, states: Mapping[str, UnitState]) -> bool:
    """What is left of a model that died is being killed. Who switches away meanwhile has to stop it all the same."""
    state = states.get(owner.resident or "")
    return state is not None and state.active_state is ActiveState.DEACTIVATING


async def _adopt(owner: SlotOwner, events: EventLog, resident: str) -> None:
    before, owner.resident = owner.resident, resident
    leased = owner.state is State.LEASED
    owner.state, owner.cause = State.ACTIVE, ""
    record = dataclasses.replace(owner.record, desired=resident, decided=True, lease_until=None, lease_restore=None)
    instead = f" instead of {before}" if before else ""
    ended = "; the lease is over" if leased else ""
    events.emit(
        "model.adopted", resident, f"{resident} was started outside agentd{instead} and is adopted{ended}",
        slot=owner.ctx.name, before=before,
    )  # fmt: skip
    await owner.save(record)
    owner.publish()


async def _lost(owner: SlotOwner, events: EventLog, *, asleep: bool) -> None:
    """All is asked first, then noted at once: a change that begins meanwhile finds the slot as it was, or as it is."""
    gone, undisturbed = owner.resident, owner.still()
    assert gone is not None
    model, cause, failed = owner.ctx.models.get(gone), "", False
    if model is not None:
        state = await owner.ctx.ports.control.show(model.unit)
        failed = state.active_state is ActiveState.FAILED
        cause = await why_ended(owner.ctx, model, state) if failed else ""
        if not undisturbed():
            return
    owner.resident, owner.cause = None, cause
    owner.state = State.DEGRADED if failed else State.IDLE
    if failed:
        events.emit("model.failed", gone, f"{gone} failed: {cause}", slot=owner.ctx.name)
    elif model is not None and not asleep:
        events.emit("model.stopped", gone, f"{gone} was stopped outside agentd", slot=owner.ctx.name)
    owner.publish()


async def _keep_one(owner: SlotOwner, events: EventLog, running: list[str]) -> list[str]:
    """Two at once can only be when the exclusive drop-ins are missing or newer than a running unit."""
    keep = owner.record.desired if owner.record.desired in running else running[0]
    for name in running:
        if name == keep:
            continue
        events.emit(
            "slot.two-models", name, f"{name} ran beside {keep} in slot {owner.ctx.name}; it is stopped",
            slot=owner.ctx.name, kept=keep,
        )  # fmt: skip
        await owner.ctx.ports.control.stop(owner.ctx.models[name].unit)
    return [keep]
