"""What happened to a slot without us: a model started by hand, one that died, one that somebody stopped."""

from __future__ import annotations

import dataclasses

from agentd.core.explain import explain
from agentd.core.switch import State
from agentd.engine.events import EventLog
from agentd.managers.models.slot import SlotOwner
from agentd.types import ActiveState

RUNNING = (ActiveState.ACTIVE, ActiveState.ACTIVATING, ActiveState.RELOADING, ActiveState.REFRESHING)


async def look(owner: SlotOwner, events: EventLog) -> None:
    """Compare the slot with reality and take note; the only thing it ever stops is a second model."""
    if owner.busy():
        return
    states = await owner.ctx.briefs()
    if owner.busy():
        return  # A request came in while systemd was asked; its own reads count now.
    running = [name for name in owner.ctx.models if states[name].active_state in RUNNING]
    if len(running) > 1 and owner.ctx.slot.exclusive:
        running = await _keep_one(owner, events, running)
    resident = owner.resident if owner.resident in running else (running[0] if running else None)
    if resident == owner.resident:
        return
    if resident is None and any(states[name].job in ("start", "restart") for name in owner.ctx.models):
        return  # Between the stop of one model and the start of the other; the start's own news leads here again.
    if resident is None:
        await _lost(owner, events)
    else:
        await _adopt(owner, events, resident)


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


async def _lost(owner: SlotOwner, events: EventLog) -> None:
    gone, owner.resident = owner.resident, None
    assert gone is not None
    model = owner.ctx.models.get(gone)
    if model is None:
        owner.state = State.IDLE
        owner.publish()
        return
    state = await owner.ctx.ports.control.show(model.unit)
    if state.active_state is ActiveState.FAILED:
        lines = await owner.ctx.ports.journal.tail(
            model.unit, lines=100, invocation=state.invocation_id, pid=state.exec_pid
        )
        owner.state, owner.cause = State.DEGRADED, explain(state, lines)
        events.emit("model.failed", gone, f"{gone} failed: {owner.cause}", slot=owner.ctx.name)
    else:
        owner.state, owner.cause = State.IDLE, ""
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
