"""Environment files with keys: read, judged, and changed several at once. Blocks; never in the daemon's loop.

A link is followed: what is read and replaced is the file that it leads to, and the link stays.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.adapters.fileset import cannot
from agentd.core.gateway import env_text
from agentd.errors import AgentdError

MODE = 0o600
LARGEST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class EnvFile:
    """`text` None: there is no such file."""

    path: str
    real: str
    """What `path` leads to."""
    text: str | None = field(repr=False)
    mode: int = 0
    uid: int = -1

    def value(self, name: str) -> str | None:
        """None where the file does not have it. Of a file that is a key alone, that key."""
        if self.text is None:
            return None
        lone = alone(self.text)
        return lone if lone is not None else env_text.parse(self.text, exported=True).get(name)

    def open_to(self) -> str:
        """Who else can read it: "everybody", "its group" or ""."""
        if self.text is None:
            return ""
        return "everybody" if self.mode & 0o007 else "its group" if self.mode & 0o070 else ""


def alone(text: str) -> str | None:
    """The key of a file that holds nothing else; None for a file of assignments, and for an empty one."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return lines[0] if len(lines) == 1 and "=" not in lines[0] else None


def read(path: str) -> EnvFile:
    """Raises AgentdError("file-read")."""
    real = os.path.realpath(path)
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return EnvFile(path, real, None)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        with os.fdopen(descriptor, "rb") as stream:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise AgentdError("file-read", f"cannot read {path}: it is no regular file")
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(data) > LARGEST:
        raise AgentdError("file-read", f"cannot read {path}: it is larger than {LARGEST} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise AgentdError("file-read", f"cannot read {path}: it is not UTF-8 text") from None
    return EnvFile(path, real, text, stat.S_IMODE(about.st_mode), about.st_uid)


class EnvFiles:
    """`state`: a directory of ours, where a change that is under way is written down. One process at a time."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._files = LocalFiles(journal=state / "files.json", mode=MODE)
        self.lock = FileLock(state / "lock", patience=2.0, purpose="change keys")

    def ready(self) -> tuple[str, ...]:
        """The directory is there, and what a killed process left half written is undone: the paths that got their old
        text back. Raises AgentdError("file-write")."""
        try:
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AgentdError("file-write", cannot("write", error)) from None
        return asyncio.run(self._files.recover())

    def change(self, changes: Mapping[str, Mapping[str, str | None]]) -> None:
        """Path -> variable -> value (None: take it out). All files or none; new ones get 0600, and ours that others
        can read lose that. Raises AgentdError("file-write" | "file-read" | "file-owner")."""
        desired: dict[str, str | None] = {}
        for path, values in changes.items():
            found = read(path)
            _ours(found)
            before = desired.get(found.real) or found.text or ""
            after = _changed(path, before, values)
            if after != before:
                desired[found.real] = after
        made = [Path(path).parent for path in desired]
        try:
            for directory in made:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AgentdError("file-write", cannot("write", error)) from None
        asyncio.run(self._files.apply(desired))

    def repair(self, path: str) -> bool:
        """Take a file's group and others away; True when it was needed. Raises AgentdError("file-owner" | ...)."""
        found = read(path)
        if not found.open_to():
            return False
        _ours(found)
        try:
            Path(found.real).chmod(MODE)
        except OSError as error:
            raise AgentdError("file-write", cannot("change the mode of", error)) from None
        return True


def _changed(path: str, text: str, values: Mapping[str, str | None]) -> str:
    lone = alone(text)
    if lone is None:
        try:
            return env_text.with_values(text, values)
        except ValueError as error:
            raise AgentdError("file-write", f"cannot write {path}: {error}") from None
    new = next((value for value in values.values() if value is not None), None)
    return text if new is None else text.replace(lone, new)


def _ours(found: EnvFile) -> None:
    if found.text is not None and found.uid != os.geteuid():
        raise AgentdError(
            "file-owner",
            f"cannot change {found.path}: it belongs to user {found.uid}, and this is user {os.geteuid()}",
            hint="do it as that user, so that the file stays theirs",
        )


def _unreadable(path: str, error: OSError | ValueError) -> AgentdError:
    reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    return AgentdError("file-read", f"cannot read {path}: {reason}")
