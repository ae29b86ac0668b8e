"""What facts of a model were measured on: another command line or another directory makes them worthless."""

from __future__ import annotations

import hashlib

from agentd.managers.models.context import ModelUnit, SlotContext
from agentd.model_facts import ModelFacts
from agentd.types import UnitState

LENGTH = 16
"""Hex digits; told apart is what one person has tried, not what an attacker could find."""


def fingerprint(model: ModelUnit, state: UnitState) -> str:
    """`state` as UnitControl.show gives it, with the command line; arguments may be secret, so only their digest
    leaves this function."""
    parts = (model.unit, model.spec.path, model.spec.served_name, *state.exec_start)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:LENGTH]


async def facts_of(ctx: SlotContext, model: ModelUnit, state: UnitState | None = None) -> ModelFacts:
    """What is known of the model as its unit is now; nothing that was learned of another command line. `state`: where
    the caller has just read it."""
    return ctx.facts.of(model.name, fingerprint(model, state or await ctx.ports.control.show(model.unit)))
