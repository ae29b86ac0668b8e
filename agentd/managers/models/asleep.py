"""Who sleeps: the servers are asked. What was noted counts where one does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agentd.managers.models.admin import Admin
from agentd.managers.models.context import SlotContext
from agentd.types import ActiveState, UnitState

ASKED = (ActiveState.ACTIVE, ActiveState.RELOADING, ActiveState.REFRESHING)
SOON = 1.0
"""Seconds for an answer that is only looked at; one who has to know waits longer."""


async def asleep(
    ctx: SlotContext, states: Mapping[str, UnitState] | None = None, *, timeout: float = SOON
) -> frozenset[str]:
    """Models whose units are up and that sleep. A unit that is not there yet, or not any more, sleeps not."""
    states = states or await ctx.briefs()
    said = await answers(ctx, states, timeout=timeout)
    return frozenset(
        name for name, answer in said.items() if (name in ctx.sleepers.levels if answer is None else answer)
    )


async def answers(
    ctx: SlotContext, states: Mapping[str, UnitState], *, timeout: float, but: str | None = None
) -> Mapping[str, bool | None]:
    """What each model says, but one, that is up and may sleep; None where it does not say."""
    names = [name for name in ctx.models if states[name].active_state in ASKED and may_sleep(ctx, name)]
    names = [name for name in names if name != but]
    said = await asyncio.gather(*(Admin(ctx.ports, ctx.models[name]).sleeping(timeout) for name in names))
    return dict(zip(names, said, strict=True))


async def sleeps(ctx: SlotContext, name: str, *, timeout: float = SOON) -> bool:
    """By its own word; without one, by what was noted."""
    answer = await Admin(ctx.ports, ctx.models[name]).sleeping(timeout)
    return name in ctx.sleepers.levels if answer is None else answer


def may_sleep(ctx: SlotContext, name: str) -> bool:
    return ctx.models[name].spec.switch != "stop" or name in ctx.sleepers.levels


def awake(ctx: SlotContext, states: Mapping[str, UnitState], sleeping: frozenset[str]) -> tuple[str, ...]:
    """Models that are up, or on their way, and not among those that sleep; in the order of the configuration."""
    return tuple(name for name in ctx.models if states[name].active_state.up and name not in sleeping)
