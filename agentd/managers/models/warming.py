"""The next model's weights come into the page cache while the present one drains, stops and gives its memory back."""

from __future__ import annotations

import asyncio
import logging

from agentd.core.quantities import told_bytes
from agentd.core.switch import State
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun

log = logging.getLogger(__name__)

MEANWHILE = frozenset({State.DRAIN, State.RELEASE, State.EVICT, State.WAIT_VRAM})
"""From START on the model reads for itself, and two readers would be in each other's way."""


WORTH = 1024**2
"""Bytes of weights; less is a model for tests."""


class Warming:
    """For one slot, one change at a time. It never delays a phase, and its failure is nobody's."""

    def __init__(self) -> None:
        self._change = ""
        self._task: asyncio.Task[None] | None = None
        self._done = self._whole = 0

    def at(self, ctx: SlotContext, run: SwitchRun, state: State) -> None:
        """A phase of the change begins."""
        if state not in MEANWHILE:
            self.end()
        elif self._change != run.change.id:
            self.end()
            self._change, self._done, self._whole = run.change.id, 0, 0
            if wanted(ctx, run):
                assert run.target is not None
                self._task = asyncio.ensure_future(self._read(ctx, run.target))

    def end(self) -> None:
        """The reading ends within a moment, which is not waited for."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def told(self, run: SwitchRun) -> str:
        """ "3.9G of 4.1G of weights in the page cache"; "" where nothing worth a word was read for this change."""
        if self._change != run.change.id or not self._done or self._whole < WORTH:
            return ""
        return f"{told_bytes(self._done)} of {told_bytes(self._whole)} of weights in the page cache"

    async def _read(self, ctx: SlotContext, target: ModelUnit) -> None:
        change = self._change

        def note(done: int, whole: int) -> None:
            if self._change == change:
                self._done, self._whole = done, whole

        try:
            if target.name in await ctx.up():
                return  # It sleeps, and keeps its weights itself.
            limit = allowance(ctx)
            if limit > 0:
                await ctx.ports.weights.warm(target.spec.path, limit, note)
        except AgentdError as error:
            log.debug("warm.failed", extra={"data": {"model": target.name, "error": error.message}})
        except Exception:
            log.exception("warm.internal", extra={"data": {"model": target.name}})


def wanted(ctx: SlotContext, run: SwitchRun) -> bool:
    return ctx.slot.warm_cache and run.change.kind == "switch" and run.target is not None and bool(run.target.spec.path)


def allowance(ctx: SlotContext) -> int:
    """Bytes that may be read: what is read drives other files out of memory, so half of what is there, and what a
    sleeper is promised stays untouched."""
    available = ctx.ports.kernel.memory_available()
    return min(available // 2, available - ctx.slot.sleep_reserve)
