"""Recent changes in memory: who follows one, how long they take, how they ended."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable

from agentd.engine.broadcast import Broadcast
from agentd.errors import AgentdError
from agentd.ports import Store
from agentd.types import Change, Outcome

log = logging.getLogger(__name__)

KEPT = 200
WEIGHT = 0.3
"""Share of the newest duration in the moving average."""


class ChangeBook:
    """`note` is called at every step of every change; readers never wait for anything but news."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: OrderedDict[str, Change] = OrderedDict()
        self._averages: dict[tuple[str | None, str | None], float] = {}
        self.news: Broadcast[Change] = Broadcast()
        self.on_end: list[Callable[[Change], None]] = []

    async def load(self) -> None:
        for change in reversed(await self._store.changes(KEPT)):
            self._recent[change.id] = change
            self._learn(change)

    def note(self, change: Change) -> None:
        self._recent[change.id] = change
        self._recent.move_to_end(change.id)
        while len(self._recent) > KEPT:
            self._recent.popitem(last=False)
        if change.finished is not None:
            self._learn(change)
            self._tell(change)
        self.news.publish(change)

    def _tell(self, change: Change) -> None:
        """A listener's bug must not keep the slot busy for ever."""
        for listener in self.on_end:
            try:
                listener(change)
            except Exception:
                log.exception("change.listener", extra={"data": {"change": change.id}})

    def find(self, change_id: str) -> Change:
        """Raises AgentdError("change-not-found")."""
        change = self._recent.get(change_id)
        if change is None:
            hint = "agentctl switch status lists the recent ones"
            raise AgentdError("change-not-found", f"there is no change {change_id}", hint=hint)
        return change

    def recent(self, limit: int) -> tuple[Change, ...]:
        """Newest first."""
        return tuple(reversed(self._recent.values()))[:limit]

    def estimate(self, previous: str | None, target: str | None) -> float | None:
        """Seconds that this switch took lately, None when it never happened."""
        return self._averages.get((previous, target))

    async def follow(self, change_id: str) -> AsyncGenerator[Change, None]:
        """The change as it is, then each of its steps; ends with the finished one."""
        with self.news.listen() as news:
            change = self.find(change_id)
            yield change
            if change.finished is not None:
                return
            async for item in news:
                if item.id == change_id:
                    yield item
                    if item.finished is not None:
                        return

    def _learn(self, change: Change) -> None:
        if change.outcome is not Outcome.DONE or change.finished is None:
            return
        key = (change.previous, change.target)
        took = max(0.0, change.finished - change.created)
        known = self._averages.get(key)
        self._averages[key] = took if known is None else known + WEIGHT * (took - known)
