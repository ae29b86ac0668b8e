"""The journal as lists, with places to make it fail or to cut agentd off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agentd.errors import AgentdError
from agentd.model_facts import ModelFacts
from agentd.ports import SlotRecord
from agentd.types import Change, Event


class FakeStore:
    """`fail` is raised by every write while it is set. `before_save`/`after_save` see each Change around the moment it
    becomes durable; what they raise comes out of save_change: the place for a simulated crash."""

    def __init__(self, event_history: int = 10_000) -> None:
        self.saved: dict[str, Change] = {}
        self.slots: dict[str, SlotRecord] = {}
        self.models: dict[str, ModelFacts] = {}
        self.log: list[Event] = []
        self.writes: list[Change] = []
        """Every version of every change that was saved, in order."""
        self.fail: AgentdError | None = None
        self.before_save: Callable[[Change], None] | None = None
        self.after_save: Callable[[Change], None] | None = None
        self._history = event_history

    async def _write(self) -> None:
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail

    async def save_change(self, change: Change) -> None:
        await self._write()
        if self.before_save is not None:
            self.before_save(change)
        self.saved[change.id] = change
        self.writes.append(change)
        if self.after_save is not None:
            self.after_save(change)

    async def change(self, change_id: str) -> Change | None:
        return self.saved.get(change_id)

    async def changes(self, limit: int) -> tuple[Change, ...]:
        """Newest first."""
        newest = sorted(self.saved.values(), key=lambda c: c.created)[::-1]
        return tuple(newest[: max(0, limit)])

    async def open_changes(self) -> tuple[Change, ...]:
        """Oldest first."""
        return tuple(sorted((c for c in self.saved.values() if c.outcome is None), key=lambda c: c.created))

    async def save_facts(self, facts: ModelFacts) -> None:
        await self._write()
        self.models[facts.name] = facts

    async def forget_facts(self, models: Sequence[str]) -> None:
        await self._write()
        for name in models:
            self.models.pop(name, None)

    async def facts(self) -> tuple[ModelFacts, ...]:
        return tuple(self.models.values())

    async def save_slot(self, record: SlotRecord) -> None:
        await self._write()
        self.slots[record.name] = record

    async def slot(self, name: str) -> SlotRecord:
        return self.slots.get(name, SlotRecord(name))

    async def append_events(self, events: Sequence[Event]) -> None:
        await self._write()
        known = {event.seq for event in events}
        self.log = [event for event in self.log if event.seq not in known] + list(events)
        self.log = sorted(self.log, key=lambda e: e.seq)[-self._history :]

    async def events(self, limit: int, after: int = 0) -> tuple[Event, ...]:
        """The newest `limit` of those after `after`, oldest first."""
        found = [event for event in self.log if event.seq > after]
        return tuple(found[-limit:]) if limit > 0 else ()

    async def last_event_seq(self) -> int:
        return max((event.seq for event in self.log), default=0)
