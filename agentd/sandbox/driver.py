"""The part of the simulated GPU that only pid 1 can play: to know at once when a process that holds memory ends.

A directory notification (dnotify: in the standard library, and no polling) tells of new claims, a pidfd of each end.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agentd.sandbox.gpu import Memory

_EVENTS = fcntl.DN_CREATE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT


class Driver:
    """Tells of changes by SIGIO to this process; call `refresh` then, and `ended` for each of `files` that is ready."""

    def __init__(self, directory: Path) -> None:
        claims = directory / "claims"
        claims.mkdir(parents=True, exist_ok=True)
        self._memory = Memory(directory)
        self._watched: dict[int, int] = {}
        self._fd = os.open(claims, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_NOTIFY, _EVENTS)

    @property
    def files(self) -> list[int]:
        return list(self._watched)

    def refresh(self) -> None:
        """Watch the processes of new claims."""
        known = set(self._watched.values())
        for claim in self._memory.claims():
            if claim.alive and claim.pid not in known:
                try:
                    self._watched[os.pidfd_open(claim.pid)] = claim.pid
                except ProcessLookupError:
                    continue

    def ended(self, fd: int) -> None:
        """A watched process has ended: its memory's way back begins now, at the first look after the end."""
        if self._watched.pop(fd, None) is not None:
            os.close(fd)
            self._memory.claims()
