"""A lock between processes, for what only one of them may change at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from agentd.errors import AgentdError

PATIENCE = 10.0
"""Seconds to wait for the other process; a set of files takes milliseconds."""


class FileLock:
    """flock on a file of its own: it ends with the process, however that ends."""

    def __init__(self, path: Path, *, patience: float = PATIENCE, purpose: str = "change drop-ins") -> None:
        """`purpose`: what cannot be done while another process holds it, for the error."""
        self._path = path
        self._purpose = purpose
        self._patience = patience

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Blocks for up to `patience` seconds. Raises AgentdError("file-busy")."""
        with self._opened() as descriptor:
            for pause in self._pauses(descriptor):
                time.sleep(pause)
            yield

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """The same, without blocking the loop."""
        with self._opened() as descriptor:
            for pause in self._pauses(descriptor):
                await asyncio.sleep(pause)
            yield

    def _pauses(self, descriptor: int) -> Iterator[float]:
        """The kernel knows no deadline for a lock: seconds to wait before each further try, until it is ours."""
        deadline = time.monotonic() + self._patience
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                raise AgentdError(
                    "file-busy",
                    f"cannot {self._purpose}: another process of agentd is at it and holds {self._path}",
                    hint="try again when it has finished",
                )
            yield 0.02

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = self._open()
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AgentdError(
                "file-write", f"cannot write {error.filename}: {(error.strerror or '').lower()}"
            ) from None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise AgentdError("file-write", f"cannot lock a file of agentd: {(error.strerror or '').lower()}") from None
    return True
