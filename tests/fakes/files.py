"""A dict of paths and texts with the transaction of the Files port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fnmatch import fnmatch

from agentd.errors import AgentdError

PROGRAMS = ("/home/u/.local/bin/vllm", "/usr/bin/vllm", "/srv/start")
"""Of the units' command lines; they are there."""


class FakeFiles:
    """`texts` is the disk; a path in `refuse` cannot be written (the others of its set are restored)."""

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        self.texts: dict[str, str] = dict(texts or {})
        self.refuse: set[str] = set()
        self.writes = 0
        """Applied sets that changed something."""

    async def read(self, path: str) -> str | None:
        await asyncio.sleep(0)
        return self.texts.get(path)

    async def exists(self, path: str) -> bool:
        await asyncio.sleep(0)
        return (
            path in PROGRAMS
            or path in self.texts
            or any(known.startswith(path.rstrip("/") + "/") for known in self.texts)
        )

    async def find(self, directory: str, pattern: str) -> tuple[str, ...]:
        await asyncio.sleep(0)
        return tuple(sorted(path for path in self.texts if fnmatch(path, f"{directory}/{pattern}")))

    async def apply(self, desired: Mapping[str, str | None]) -> Mapping[str, str | None]:
        await asyncio.sleep(0)
        old = {path: self.texts.get(path) for path in desired}
        for path in desired:
            if path in self.refuse and desired[path] != old[path]:
                raise AgentdError("file-write", f"cannot write {path}: permission denied")
        for path, text in desired.items():
            if text is None:
                self.texts.pop(path, None)
            else:
                self.texts[path] = text
        self.writes += old != dict(desired)
        return old
