"""Sleepers that the configuration does not name any more: nobody would ever wake or stop them."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress

from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.managers.models.context import SlotContext
from agentd.managers.models.slot import SlotOwner


def end_strays(
    owners: Mapping[str, SlotOwner], contexts: Mapping[str, SlotContext], events: EventLog
) -> Iterator[Coroutine[None, None, None]]:
    """Work to be done for each model that sleeps in a slot that will not have it; before the contexts are replaced."""
    for name, owner in owners.items():
        known = contexts[name].models if name in contexts else {}
        for model in [model for model in owner.ctx.sleeping if model not in known]:
            text = f"{model} slept in slot {name}, is not configured there any more, and is stopped"
            events.emit("model.sleeper-stopped", model, text, slot=name)
            yield _stop(owner.ctx, model)


async def _stop(ctx: SlotContext, model: str) -> None:
    with suppress(AgentdError):  # The bus is away, or the unit is: then there is nobody to be stopped by us.
        await ctx.ports.control.stop(ctx.models[model].unit)
    await ctx.sleepers.forget(model)
