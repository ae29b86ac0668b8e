"""Sleepers between changes: one that died, one that somebody woke or put to sleep by hand, one that is not wanted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from agentd.core.sleep_policy import surplus
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.managers.models.admin import Admin
from agentd.managers.models.asleep import asleep
from agentd.managers.models.draining import reopen
from agentd.managers.models.slot import SlotOwner
from agentd.types import UnitState

QUICK = 2.0


async def look(owner: SlotOwner, events: EventLog, states: Mapping[str, UnitState]) -> frozenset[str]:
    """Who sleeps now, by their own word. Stops a sleeper only where the configuration does not allow it any more."""
    undisturbed = owner.still()
    sleeping = await asleep(owner.ctx, states)
    if not undisturbed():
        return sleeping
    for name in [name for name in owner.ctx.sleeping if name not in sleeping]:
        if not undisturbed():
            return sleeping
        await _gone(owner, events, name, up=states[name].active_state.up)
    for name in sorted(sleeping - set(owner.ctx.sleepers.levels)):
        level = await Admin(owner.ctx.ports, owner.ctx.models[name]).level() or 0
        if not undisturbed():
            return sleeping
        await _found(owner, events, name, level)
    for name, why in _unwanted(owner, sleeping).items():
        if not undisturbed():
            return sleeping  # A switch has begun meanwhile, and may want just this one.
        text = f"{name} slept in slot {owner.ctx.name} and is stopped: {why}"
        events.emit("model.sleeper-stopped", name, text, slot=owner.ctx.name)
        await owner.ctx.ports.control.stop(owner.ctx.models[name].unit)
        await owner.ctx.sleepers.forget(name)
    return sleeping


async def _gone(owner: SlotOwner, events: EventLog, name: str, *, up: bool) -> None:
    """Noted, and yet not asleep: it died, was stopped, or was woken by somebody."""
    what = "was woken outside agentd" if up else "does not run any more"
    events.emit("model.sleeper-gone", name, f"{name} slept in slot {owner.ctx.name} and {what}")
    undisturbed = owner.still()
    await owner.ctx.sleepers.forget(name)
    if up and undisturbed():
        await reopen(owner.ctx, owner.ctx.models[name])


async def _found(owner: SlotOwner, events: EventLog, name: str, level: int) -> None:
    """Somebody else's sleep leaves the door open: requests would wait in it without a word."""
    undisturbed = owner.still()
    await owner.ctx.sleepers.note(name, level)
    if undisturbed():
        with suppress(AgentdError):
            await Admin(owner.ctx.ports, owner.ctx.models[name]).hold("abort", QUICK)
    events.emit("model.asleep", name, f"{name} was put to sleep outside agentd", slot=owner.ctx.name)


def _unwanted(owner: SlotOwner, sleeping: frozenset[str]) -> dict[str, str]:
    ctx = owner.ctx
    asleep = [name for name in ctx.sleeping if name in sleeping]
    found = {name: "its switch is set to stop" for name in asleep if ctx.models[name].spec.switch == "stop"}
    too_many = surplus([name for name in asleep if name not in found], None, ctx.slot.max_sleepers)
    return found | dict.fromkeys(too_many, f"at most {ctx.slot.max_sleepers} may sleep")
