"""The bounded history of facts: in memory for readers, in the store for the next start."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from agentd.engine.broadcast import Broadcast
from agentd.errors import AgentdError
from agentd.ports import Clock, Store
from agentd.types import Event

log = logging.getLogger(__name__)

RING = 1000
Scalar = str | int | float | bool | None


class EventLog:
    """`emit` never waits; a task writes what is pending to the store in batches."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ring: deque[Event] = deque(maxlen=RING)
        self._pending: deque[Event] = deque(maxlen=RING)
        self._wake = asyncio.Event()
        self._seq = 0
        self.news: Broadcast[Event] = Broadcast()

    async def load(self) -> None:
        """Continue the numbering and the history of the last run."""
        self._seq = await self._store.last_event_seq()
        self._ring.extend(await self._store.events(RING))

    def emit(self, kind: str, subject: str, message: str, **data: Scalar) -> Event:
        self._seq += 1
        event = Event(self._seq, self._clock.time(), kind, subject, message, dict(data))
        self._ring.append(event)
        self._pending.append(event)
        self._wake.set()
        self.news.publish(event)
        log.info(kind, extra={"data": {"subject": subject, "text": message, **data}})
        return event

    def recent(self, limit: int, after: int = 0) -> tuple[Event, ...]:
        """The newest `limit` events with a number above `after`, oldest first."""
        found = [e for e in self._ring if e.seq > after]
        return tuple(found[-limit:])

    async def run(self) -> None:
        """Persist until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        batch = tuple(self._pending)
        if not batch:
            return
        try:
            await self._store.append_events(batch)
        except AgentdError as error:
            # The history in memory stays; the next event tries again with everything pending.
            log.warning("event.not-saved", extra={"data": {"error": error.message, "pending": len(batch)}})
            return
        # What came meanwhile stays, also when it pushed the oldest of a full queue out.
        while self._pending and self._pending[0].seq <= batch[-1].seq:
            self._pending.popleft()
