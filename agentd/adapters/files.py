"""Small text files, written so that a crash or a full disk leaves either the old set or the new one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import AgentdError

NEW_FILE_MODE = 0o644
LARGEST = 1024 * 1024


@dataclass(slots=True)
class _Step:
    path: Path
    old: str | None
    mode: int
    staged: Path | None
    """The new text beside its place; None for a removal."""


class LocalFiles:
    """The Files port. With `roots`, a path that is not below one of them is refused, and a directory below them that a
    removal leaves empty goes too."""

    def __init__(self, roots: Sequence[Path] = ()) -> None:
        self._roots = tuple(Path(os.path.normpath(root)) for root in roots)
        self._lock = threading.Lock()

    async def read(self, path: str) -> str | None:
        return await asyncio.to_thread(_read, Path(path))

    async def exists(self, path: str) -> bool:
        return await asyncio.to_thread(os.path.exists, path)

    async def find(self, directory: str, pattern: str) -> tuple[str, ...]:
        return await asyncio.to_thread(lambda: tuple(sorted(map(str, Path(directory).glob(pattern)))))

    async def apply(self, desired: Mapping[str, str | None]) -> Mapping[str, str | None]:
        # Shielded: a cancelled caller must not see the set half done, nor another one begin meanwhile.
        return await asyncio.shield(asyncio.to_thread(self._apply, dict(desired)))

    def _apply(self, desired: dict[str, str | None]) -> dict[str, str | None]:
        with self._lock:
            paths = {name: self._inside(name) for name in desired}
            old = {name: _read(path) for name, path in paths.items()}
            made: list[Path] = []
            steps: list[_Step] = []
            done: list[_Step] = []
            try:
                for name, text in desired.items():
                    if text != old[name]:
                        steps.append(_stage(paths[name], old[name], text, made))
                for step in steps:
                    _commit(step)
                    done.append(step)
                _sync({step.path.parent for step in steps})
            except OSError as error:
                problem = self._undo(error, steps, done, made)
            else:
                self._prune(step.path.parent for step in steps if step.staged is None)
                return old
            raise problem

    def _inside(self, name: str) -> Path:
        path = Path(name)
        normal = os.path.normpath(name)
        if path.is_absolute() and normal == name and (not self._roots or self._below_root(path)):
            return path
        allowed = ", ".join(map(str, self._roots)) or "/"
        raise AgentdError("file-outside", f"cannot write {name}: it is not below {allowed}")

    def _below_root(self, path: Path) -> bool:
        return any(root in path.parents for root in self._roots)

    def _undo(self, error: OSError, steps: list[_Step], done: list[_Step], made: list[Path]) -> AgentdError:
        """Put the old texts back; the answer says what failed, and also what could not be put back."""
        lost: list[str] = []
        for step in reversed(done):
            try:
                _commit(_stage(step.path, None, step.old, [], mode=step.mode))
            except OSError:
                lost.append(str(step.path))
        for step in steps:
            if step.staged is not None:
                step.staged.unlink(missing_ok=True)
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        hint = f"could not restore: {', '.join(lost)}" if lost else ""
        return AgentdError("file-write", _cannot("write", error), hint=hint)

    def _prune(self, parents: Iterable[Path]) -> None:
        for parent in set(parents):
            if self._below_root(parent):
                with contextlib.suppress(OSError):
                    parent.rmdir()


def _cannot(verb: str, error: OSError) -> str:
    return f"cannot {verb} {error.filename}: {(error.strerror or str(error)).lower()}"


def _read(path: Path) -> str | None:
    try:
        if path.is_symlink():
            raise AgentdError("file-read", f"cannot read {path}: it is a symbolic link, not a file of ours")
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise AgentdError("file-read", f"cannot read {path}: larger than {LARGEST} bytes")
        return data.decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise AgentdError("file-read", f"cannot read {path}: not UTF-8 text") from None
    except OSError as error:
        raise AgentdError("file-read", _cannot("read", error)) from None


def _stage(path: Path, old: str | None, text: str | None, made: list[Path], *, mode: int = 0) -> _Step:
    """Write the new text beside its place and bring it to the disk."""
    if not mode:
        mode = NEW_FILE_MODE if old is None else stat.S_IMODE(path.stat().st_mode)
    if text is None:
        return _Step(path, old, mode, None)
    _make_parents(path.parent, made)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        error.filename = str(path)
        raise
    return _Step(path, old, mode, Path(name))


def _commit(step: _Step) -> None:
    if step.staged is None:
        step.path.unlink(missing_ok=True)
    else:
        step.staged.rename(step.path)


def _make_parents(directory: Path, made: list[Path]) -> None:
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        made.append(parent)
    _sync({parent.parent for parent in missing})


def _sync(directories: set[Path]) -> None:
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
