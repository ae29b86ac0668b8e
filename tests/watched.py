"""What a watch on directories tells, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agentd.adapters.inotify import Inotify
from agentd.ports_hardening import FileWatch


class Heard:
    """The paths that were told."""

    def __init__(self) -> None:
        self.watch = Inotify()
        self.port: FileWatch = self.watch
        self.paths: list[str] = []
        self._news = asyncio.Event()

    def hear(self, path: str) -> None:
        self.paths.append(path)
        self._news.set()

    async def until(self, *paths: Path | str) -> None:
        """Wait until all the paths are told; what was told up to then is forgotten."""
        await self._told({str(path) for path in paths})
        self.paths.clear()

    async def quiet_until(self, path: Path, marker: Path) -> None:
        """`path` is not told before `marker`, which is written now and is told in order."""
        self.paths.clear()
        marker.write_text("marker")
        await self._told({str(marker)})
        assert str(path) not in self.paths
        self.paths.clear()

    async def _told(self, wanted: set[str]) -> None:
        async with asyncio.timeout(5):
            while not wanted <= set(self.paths):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def watching(*directories: Path) -> AsyncIterator[Heard]:
    heard = Heard()
    heard.port.watch([str(path) for path in directories], heard.hear)
    try:
        yield heard
    finally:
        heard.watch.close()
