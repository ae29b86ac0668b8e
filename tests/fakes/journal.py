"""Journal lines per unit."""

from __future__ import annotations

import asyncio


class FakeJournal:
    """`say` writes a line; `readable = False` is a journal that we may not read."""

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[str, str]]] = {}
        self.readable = True

    def say(self, unit: str, line: str, *, invocation: str = "") -> None:
        self.entries.setdefault(unit, []).append((invocation, line))

    async def tail(self, unit: str, *, lines: int, invocation: str = "", pid: int = 0) -> tuple[str, ...]:
        await asyncio.sleep(0)
        if not self.readable or lines <= 0:
            return ()
        found = [text for own, text in self.entries.get(unit, []) if not invocation or own == invocation]
        return tuple(found[-lines:])
