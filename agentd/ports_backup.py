"""The files of backups and restores as a Protocol: what DataFiles can, and what only they need.

Every method raises AgentdError, never the system's error. Kinds: "file-missing", "file-denied", "file-write",
"disk-full".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agentd.core.redis_placement import Placement
from agentd.ports_redis import DataFiles


class BackupFiles(DataFiles, Protocol):
    async def prepare(self, directory: str) -> tuple[str, ...]:
        """Make the directory (0700, with its parents) where it is missing, and see that it can be written; the names in
        it, sorted."""
        ...

    async def text(self, path: str) -> str | None:
        """A small text file; None when it is not there."""
        ...

    async def write(self, path: str, text: str) -> None:
        """A new file or another text in an old one, 0600, synced; whole or not at all."""
        ...

    async def move(self, source: str, target: str) -> None:
        """Rename within a file system, synced; `target` must not exist."""
        ...

    async def remove(self, path: str) -> None:
        """A file or a directory with all that is in it; nothing happens when it is not there."""
        ...

    async def link(self, sources: Mapping[str, str], target: str) -> None:
        """As `copy`, but by hard links where the file system has them: a file is the same file under a second name."""
        ...

    async def access(self, path: str) -> str:
        """Whose the file is, who we are, and how we could come to read it: a hint for an error."""
        ...

    async def stage(self, plan: Placement) -> None:
        """Lay everything that `commit` will put into place beside it, synced, and keep other restores away from the
        directory. Leftovers of one that was killed are removed. Raises "backup-damaged" when the RDB is not the one of
        the plan, "restore-busy" while another restore works there."""
        ...

    async def commit(self, plan: Placement) -> tuple[str, tuple[str, ...]]:
        """Put what was staged into place: (directory with the files that were there, "" for none; names now in place).

        Killed at any moment, what the next start finds is all old or all new, and every old file is in its place or in
        the directory. An error before the first rename leaves everything as it was."""
        ...

    async def unstage(self, plan: Placement) -> None:
        """Take back what was staged and not committed; nothing happens after `commit`."""
        ...
