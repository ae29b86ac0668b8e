"""Journal lines per unit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class FakeJournal:
    """`say` writes a line; `readable = False` is a journal that we may not read."""

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[str, str]]] = {}
        self.readable = True
        self._said: list[asyncio.Event] = []

    def say(self, unit: str, line: str, *, invocation: str = "") -> None:
        self.entries.setdefault(unit, []).append((invocation, line))
        for event in self._said:
            event.set()

    async def tail(self, unit: str, *, lines: int, invocation: str = "", pid: int = 0) -> tuple[str, ...]:
        await asyncio.sleep(0)
        if not self.readable or lines <= 0:
            return ()
        found = [text for own, text in self.entries.get(unit, []) if not invocation or own == invocation]
        return tuple(found[-lines:])

    async def follow(self, unit: str, *, invocation: str = "", pid: int = 0) -> AsyncGenerator[str, None]:
        if not self.readable:
            return
        seen, event = 0, asyncio.Event()
        self._said.append(event)
        try:
            while True:
                event.clear()
                found = [text for own, text in self.entries.get(unit, []) if not invocation or own == invocation]
                for text in found[seen:]:
                    yield text
                seen = len(found)
                await event.wait()
        finally:
            self._said.remove(event)
