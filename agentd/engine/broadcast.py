"""Fan-out of news to any number of slow or fast listeners, without ever blocking who publishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Each listener has a bounded queue; one that does not keep up loses its oldest items."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._queues: set[asyncio.Queue[T | None]] = set()
        self._closed = False

    def publish(self, item: T) -> None:
        for queue in self._queues:
            _put(queue, item)

    def close(self) -> None:
        """End every listener's iteration; later listeners end at once."""
        self._closed = True
        for queue in self._queues:
            _put(queue, None)

    @contextmanager
    def listen(self) -> Iterator[AsyncIterator[T]]:
        """Items published from the moment of entering; leaving unsubscribes."""
        queue: asyncio.Queue[T | None] = asyncio.Queue(self._capacity)
        if self._closed:
            queue.put_nowait(None)
        self._queues.add(queue)
        try:
            yield _drain(queue)
        finally:
            self._queues.discard(queue)


def _put(queue: asyncio.Queue[T | None], item: T | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(item)


async def _drain(queue: asyncio.Queue[T | None]) -> AsyncIterator[T]:
    while (item := await queue.get()) is not None:
        yield item
