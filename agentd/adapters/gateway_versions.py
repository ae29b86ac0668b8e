"""The generated file and the ones before it. Blocks; call it in a thread, under the lock where it writes."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from agentd.adapters import fileset
from agentd.adapters.fileset import Intent
from agentd.core.gateway.header import edited, parse_header
from agentd.errors import AgentdError
from agentd.ports_gateway import Version

MODE = 0o600
LARGEST = 32 * 1024 * 1024
_ID = re.compile(r"([0-9]{8}T[0-9]{6})-([0-9a-f]{8})")
_TIME = "%Y%m%dT%H%M%S"


def digest_of(text: str) -> str:
    """Of what was generated, as the file's header has it; of the whole text when it has none, or was edited."""
    header = parse_header(text)
    return header.digest if header is not None and not edited(text) else sha256(text.encode()).hexdigest()


def replace(path: Path, text: str) -> None:
    """The whole text under this name, on the disk, mode 0600; or what was there before. Raises AgentdError."""
    try:
        if path.is_symlink():
            raise AgentdError(
                "file-write",
                f"cannot write {path}: it is a symbolic link, and would no longer be one",
                hint="name the file that it leads to as gateway.config",
            )
        fileset.discard([path])
        step = fileset.stage(Intent(path, None, text, MODE), text)
        try:
            fileset.commit(step)
        except OSError:
            if step.staged is not None:
                step.staged.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # The new text counts already; after a power cut it may be the old one.
            fileset.sync([path.parent])
    except OSError as error:
        error.filename = str(path)
        raise AgentdError("file-write", fileset.cannot("write", error)) from None


class Versions:
    """`path`: the generated file. `keep`: so many of the ones before it stay."""

    def __init__(self, path: Path, keep: int, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._directory = path.parent / f".{path.stem}.versions"
        self._keep = keep
        self._now = now

    def put(self, text: str) -> Version | None:
        """Replace the generated file; the version that keeps the one before, None without one or for the same text.
        Raises AgentdError; then it is the old file still."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AgentdError("file-write", fileset.cannot("make", error)) from None
        old = fileset.read(self._path, LARGEST)
        if old == text:
            self._tighten()
            return None
        version = self._kept(old) if old is not None else None
        replace(self._path, text)
        self._prune()
        return version

    def found(self) -> tuple[Version, ...]:
        """Newest first. What is no readable version is passed over."""
        return tuple(
            Version(name, _written(name), digest_of(text), str(self._file(name)))
            for name in self._names()
            if (text := self._read(name)) is not None
        )

    def text(self, version: str) -> str:
        """Raises AgentdError("version-not-found")."""
        names = self._names()
        text = self._read(version) if version in names else None
        if text is not None:
            return text
        there = f"there are: {', '.join(names)}" if names else "none was kept yet"
        raise AgentdError("version-not-found", f"no version {version} of {self._path}: {there}")

    def _names(self) -> list[str]:
        try:
            found = [path.stem for path in self._directory.iterdir() if path.suffix == ".yaml"]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise AgentdError("file-read", fileset.cannot("read", error)) from None
        return sorted((name for name in found if _ID.fullmatch(name)), reverse=True)

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.yaml"

    def _read(self, name: str) -> str | None:
        try:
            return fileset.read(self._file(name), LARGEST)
        except AgentdError:
            return None

    def _kept(self, text: str) -> Version:
        """The version with this text; the newest one when it holds it already, after a kill before the replacing."""
        names = self._names()
        if not names or self._read(names[0]) != text:
            names = [self._new_name(text, names[0] if names else ""), *names]
            try:
                self._directory.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise AgentdError("file-write", fileset.cannot("make", error)) from None
            replace(self._file(names[0]), text)
        return Version(names[0], _written(names[0]), digest_of(text), str(self._file(names[0])))

    def _new_name(self, text: str, newest: str) -> str:
        """It sorts after the newest one, whatever the clock says."""
        moment = datetime.fromtimestamp(self._now(), UTC)
        if newest:
            moment = max(moment, datetime.fromtimestamp(_written(newest), UTC) + timedelta(seconds=1))
        return f"{moment.strftime(_TIME)}-{digest_of(text)[:8]}"

    def _prune(self) -> None:
        """Nothing is lost when an old version cannot be removed: the next write tries again."""
        with contextlib.suppress(OSError, AgentdError):
            for name in self._names()[self._keep :]:
                self._file(name).unlink(missing_ok=True)
            for path in list(self._directory.glob(".*.new")):  # Of a process that was killed.
                path.unlink(missing_ok=True)

    def _tighten(self) -> None:
        with contextlib.suppress(OSError):
            if fileset.mode_of(self._path, MODE) != MODE:
                self._path.chmod(MODE)


def _written(name: str) -> float:
    """The time in a version's name; 0 for a time that there is not."""
    try:
        return datetime.strptime(name.partition("-")[0], _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
