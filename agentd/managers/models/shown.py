"""What is shown of the models: read from the slots' owners, at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from agentd.managers.models.slot import SlotOwner
from agentd.model_facts import ModelNow
from agentd.types import Change, ExitCode, Health, ServiceStatus

SERVES = (Health.READY, Health.DEGRADED, Health.UNKNOWN)
FRESH = 5.0
"""Seconds for which the proof of a switch counts more than what supervision has seen so far."""


def as_it_serves(already: Change, last: Change | None, seen: ServiceStatus | None) -> Change:
    """A switch to the resident model has nothing to do; but one that crashed and is on its way back does not serve, and
    who waits for it must not be told so. `last`: the slot's last change."""
    if already.target is None or seen is None or seen.health in SERVES:
        return already
    if last is not None and last.finished is not None and already.created - last.finished < FRESH:
        return already
    text = (
        f"{already.target} is resident in slot {already.slot}, but does not serve: it is {seen.health.value}; "
        f"wait for it with: agentctl wait-ready {already.target}"
    )
    return dataclasses.replace(already, exit_code=ExitCode.FAILED.value, message=text, cause=seen.cause)


def models_now(owners: Iterable[SlotOwner]) -> tuple[ModelNow, ...]:
    return tuple(_now(owner, name) for owner in owners for name in owner.ctx.models)


def _now(owner: SlotOwner, name: str) -> ModelNow:
    ctx = owner.ctx
    level = ctx.sleepers.levels.get(name, 0)
    state = "resident" if owner.resident == name else "asleep" if level else "stopped"
    return ModelNow(name, ctx.name, state, level, ctx.facts.of(name), ctx.models[name].off)
