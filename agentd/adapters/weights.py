"""The ModelFiles port: directories with a model's weights, read in threads."""

from __future__ import annotations

from collections.abc import Callable

from agentd.adapters.file_threads import FileThreads
from agentd.adapters.page_cache import PageCache, weight_files
from agentd.adapters.weight_threads import WeightChecks
from agentd.errors import AgentdError
from agentd.ports_models import CheckedFiles

PATIENCE = 5.0
"""Seconds for a look at names and sizes."""


class WeightFiles:
    def __init__(self) -> None:
        self._threads = FileThreads()
        self._checks = WeightChecks()
        self._cache = PageCache()

    async def weights(self, path: str) -> int:
        if not path:
            return 0
        try:
            return await self._threads.run("look at the weights", lambda: _size(path), patience=PATIENCE)
        except AgentdError:  # The disk does not answer.
            return 0

    async def check(self, path: str, *, checksums: bool = False) -> CheckedFiles:
        return await self._checks.check(path, checksums=checksums)

    async def warm(self, path: str, limit: int, told: Callable[[int, int], None]) -> int:
        return await self._cache.warm(path, limit, told)


def _size(path: str) -> int:
    return sum(size for _, size in weight_files(path))
