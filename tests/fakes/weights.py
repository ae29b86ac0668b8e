"""Weight files as numbers: sizes, problems, how fast they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentd.ports_models import CheckedFiles, FileProblem


class FakeWeights:
    """`sizes`: path -> bytes; `problems`: path -> what check finds; `cached`: path -> bytes warmed so far."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.problems: dict[str, tuple[FileProblem, ...]] = {}
        self.cached: dict[str, int] = {}
        self.checked: list[tuple[str, bool]] = []
        self.bytes_per_second = 2 * 1024**3
        self.worth = 64 * 1024**2
        """Bytes of weights below which none are read."""

    async def weights(self, path: str) -> int:
        await asyncio.sleep(0)
        return self.sizes.get(path, 0)

    async def check(self, path: str, *, checksums: bool = False) -> CheckedFiles:
        await asyncio.sleep(0)
        self.checked.append((path, checksums))
        return CheckedFiles(1, self.sizes.get(path, 0), self.problems.get(path, ()))

    async def warm(self, path: str, limit: int, told: Callable[[int, int], None]) -> int:
        whole = min(limit, self.sizes.get(path, 0))
        if whole < self.worth:
            return 0
        while self.cached.get(path, 0) < whole:
            await asyncio.sleep(0.1)
            self.cached[path] = min(whole, self.cached.get(path, 0) + self.bytes_per_second // 10)
            told(self.cached[path], whole)
        return whole
