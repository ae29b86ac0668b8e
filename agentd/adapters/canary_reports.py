"""Where canaries leave their reports: private files in agentd's runtime directory, named after the unit."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from agentd import canary
from agentd.errors import AgentdError

_SUFFIX = ".jsonl"
MAX_BYTES = 4 << 20
"""A canary is a process in a service's sandbox, and as little to be trusted."""


class CanaryReports:
    """A file exists from before its canary starts until its unit is gone, so the files say what was left behind."""

    def __init__(self, runtime_dir: str) -> None:
        self._folder = Path(runtime_dir) / "canary"

    def program(self) -> str:
        """The text of the program. Raises OSError when this installation is damaged."""
        return canary.source()

    def addresses(self) -> tuple[str, ...]:
        """This machine's own, loopback first."""
        return _own_addresses()

    async def create(self, unit: str) -> str:
        """The path of a new, empty file that only this user can read. Raises AgentdError("canary-failed")."""
        return await asyncio.to_thread(self._create, unit)

    async def read(self, unit: str) -> str:
        """What was written so far; "" when the file is gone."""
        return await asyncio.to_thread(self._read, unit)

    async def remove(self, unit: str) -> None:
        await asyncio.to_thread(self._path(unit).unlink, missing_ok=True)

    async def units(self) -> tuple[str, ...]:
        """Those whose files are there."""
        return await asyncio.to_thread(self._units)

    def _path(self, unit: str) -> Path:
        return self._folder / f"{unit}{_SUFFIX}"

    def _create(self, unit: str) -> str:
        path = self._path(unit)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise AgentdError("canary-failed", f"cannot make the canary's report {path}: {error.strerror}") from error
        return str(path)

    def _read(self, unit: str) -> str:
        try:
            with self._path(unit).open("rb") as file:
                return file.read(MAX_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _units(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}")))
        except OSError:
            return ()


def _own_addresses() -> tuple[str, ...]:
    """Loopback, and the address that packets to elsewhere would come from. Connecting a datagram socket sends none;
    192.0.2.1 is nobody's (RFC 5737)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))
        except OSError:
            return ("127.0.0.1",)
        return tuple(dict.fromkeys(("127.0.0.1", one.getsockname()[0])))
