"""What was learned of each model, in memory and in the journal."""

from __future__ import annotations

import dataclasses
import logging
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

    async def load(self) -> None:
        self._known = {facts.name: facts for facts in await self._store.facts()}

    def of(self, model: str, fingerprint: str = "") -> ModelFacts:
        """With a fingerprint: nothing is known of a model whose facts were learned under another one."""
        known = self._known.get(model, ModelFacts(model, fingerprint))
        return known if not fingerprint or known.fingerprint == fingerprint else ModelFacts(model, fingerprint)

    async def learn(self, model: str, fingerprint: str = "", **values: Any) -> ModelFacts:
        """Replace fields; what is known under another fingerprint is forgotten first."""
        facts = dataclasses.replace(self.of(model, fingerprint), **values)
        self._known[model] = facts
        try:
            await self._store.save_facts(facts)
        except AgentdError as error:
            log.warning("facts.not-saved", extra={"data": {"model": model, "error": error.message}})
        return facts

    async def learn_sleep(self, model: str, fingerprint: str, level: int, **values: Any) -> SleepFacts:
        facts = self.of(model, fingerprint)
        new = dataclasses.replace(facts.level(level), **values)
        others = tuple(one for one in facts.sleep if one.level != level)
        await self.learn(model, fingerprint, sleep=(*others, new))
        return new
