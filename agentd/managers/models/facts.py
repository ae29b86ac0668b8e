"""What was learned of each model, in memory and in the journal."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Collection, Coroutine
from typing import Any

from agentd.errors import AgentdError
from agentd.model_facts import ModelFacts, SleepFacts
from agentd.ports import Store

log = logging.getLogger(__name__)


class FactsBook:
    """Readers get the last known facts at once; a change is on disk when `learn` returns, or told in the log."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, ModelFacts] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        self._known = {facts.name: facts for facts in await self._store.facts()}

    async def keep(self, models: Collection[str]) -> None:
        """Forget what the configuration no longer names: another model may come by the same name."""
        gone = [name for name in self._known if name not in models]
        if not gone:
            return
        for name in gone:
            del self._known[name]
        try:
            await self._store.forget_facts(gone)
        except AgentdError as error:
            log.warning("facts.not-forgotten", extra={"data": {"models": gone, "error": error.message}})

    def of(self, model: str, fingerprint: str = "") -> ModelFacts:
        """With a fingerprint: nothing is known of a model whose facts were learned under another one; what was learned
        under none counts."""
        known = self._known.get(model, ModelFacts(model, fingerprint))
        if not fingerprint or known.fingerprint == fingerprint:
            return known
        return (
            ModelFacts(model, fingerprint) if known.fingerprint else dataclasses.replace(known, fingerprint=fingerprint)
        )

    async def learn(self, model: str, fingerprint: str = "", **values: Any) -> ModelFacts:
        """Replace fields; what is known under another fingerprint is forgotten first."""
        facts = dataclasses.replace(self.of(model, fingerprint), **values)
        self._known[model] = facts
        try:
            await self._store.save_facts(facts)
        except AgentdError as error:
            log.warning("facts.not-saved", extra={"data": {"model": model, "error": error.message}})
        return facts

    def aside(self, work: Coroutine[Any, Any, object]) -> None:
        """Carry out what leads to a fact, but must not delay a switch. What goes wrong is told in the log alone."""
        task = asyncio.ensure_future(_tried(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def learn_sleep(self, model: str, fingerprint: str, level: int, **values: Any) -> SleepFacts:
        facts = self.of(model, fingerprint)
        new = dataclasses.replace(facts.level(level), **values)
        others = tuple(one for one in facts.sleep if one.level != level)
        await self.learn(model, fingerprint, sleep=(*others, new))
        return new


async def _tried(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except AgentdError as error:
        log.debug("facts.not-learned", extra={"data": {"error": error.message}})
    except Exception:
        log.exception("facts.internal")
