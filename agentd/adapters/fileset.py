"""A set of files that survives a kill: what is about to change is written down first, and undone at the next start.

The intent file holds the old and the new text of every file of the set. It is synced before the first file is touched
and removed after the last one is on the disk; its removal is the moment at which the set counts. Whoever finds one puts
every old text back. One process at a time works on a set (flock).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agentd.adapters.filelock import FileLock
from agentd.errors import AgentdError

NEW_FILE_MODE = 0o644
LARGEST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Intent:
    """One file of a set. `mode` is what the old file has (or a new one gets)."""

    path: Path
    old: str | None
    new: str | None
    mode: int


@dataclass(slots=True)
class Step:
    intent: Intent
    text: str | None
    """What the file shall hold; the old text in an undo."""
    staged: Path | None
    """It lies there already, beside its place; None for a removal."""

    @property
    def path(self) -> Path:
        return self.intent.path


def cannot(verb: str, error: OSError) -> str:
    return f"cannot {verb} {error.filename}: {(error.strerror or str(error)).lower()}"


def read(path: Path, largest: int = LARGEST) -> str | None:
    """The text; None when there is no such file. Raises AgentdError for links, other bytes and large files."""
    try:
        if path.is_symlink():
            raise AgentdError("file-read", f"cannot read {path}: it is a symbolic link, not a file of ours")
        with _opened(path) as stream:
            data = stream.read(largest + 1)
        if len(data) > largest:
            raise AgentdError("file-read", f"cannot read {path}: larger than {largest} bytes")
        return data.decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise AgentdError("file-read", f"cannot read {path}: not UTF-8 text") from None
    except OSError as error:
        raise AgentdError("file-read", cannot("read", error)) from None


def _opened(path: Path) -> BinaryIO:
    """A FIFO that nobody writes to would hold us for ever, and a device never ends."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
    raise AgentdError("file-read", f"cannot read {path}: it is {what}")


def mode_of(path: Path, default: int) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return default


def missing_parents(paths: Iterable[Path]) -> list[Path]:
    """Directories that have to be made, outermost first."""
    wanted = {parent for path in paths for parent in path.parents if not parent.exists()}
    return sorted(wanted, key=lambda path: len(path.parts))


def make(directories: Sequence[Path]) -> None:
    for directory in directories:
        directory.mkdir(exist_ok=True)
    sync({directory.parent for directory in directories})


def stage(intent: Intent, text: str | None) -> Step:
    """Write the text beside its place and bring it to the disk. Raises OSError naming the file itself."""
    if text is None:
        return Step(intent, None, None)
    path = intent.path
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fchmod(descriptor, intent.mode)
            os.fsync(descriptor)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        error.filename = str(path)
        raise
    return Step(intent, text, Path(name))


def commit(step: Step) -> None:
    if step.staged is None:
        step.path.unlink(missing_ok=True)
    else:
        step.staged.rename(step.path)


def discard(paths: Iterable[Path]) -> None:
    """Remove what an earlier run staged beside these files and never used."""
    for path in paths:
        pattern = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}\.new")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for found in list(path.parent.iterdir()):
                if pattern.fullmatch(found.name):
                    found.unlink(missing_ok=True)


def sync(directories: Iterable[Path]) -> None:
    """Directories that are gone again are passed over."""
    for directory in directories:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Journal:
    """The intent file at `path`, and a lock beside it. The methods but `locked` want the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._draft = path.with_name(path.name + ".new")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with self._lock.held():
            yield

    def begin(self, intents: Sequence[Intent], made: Sequence[Path]) -> None:
        """Raises OSError; then nothing has happened."""
        files = [{"path": str(i.path), "old": i.old, "new": i.new, "mode": i.mode} for i in intents]
        text = json.dumps({"version": 1, "files": files, "made": [str(path) for path in made]})
        try:
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(descriptor)
            self._draft.rename(self.path)
            sync([self.path.parent])
        except OSError as error:
            with contextlib.suppress(OSError):
                self._draft.unlink(missing_ok=True)
                self.path.unlink(missing_ok=True)
            error.filename = str(self.path)
            raise

    def end(self) -> None:
        """The set counts from here on. A directory that cannot be synced does not take that back."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            sync([self.path.parent])

    def recover(self, inside: Callable[[str], Path]) -> tuple[str, ...]:
        """Undo what a killed process left half done; the paths that got their old text back. `inside` refuses a path
        that is not ours to write. A file that holds neither text was changed by somebody since, and is kept.

        Raises AgentdError when a text cannot be put back; the intent stays, and the next call tries again.
        """
        with contextlib.suppress(OSError):
            self._draft.unlink(missing_ok=True)
        found = self._read()
        if found is None:
            return ()
        intents = [Intent(inside(i.path.as_posix()), i.old, i.new, i.mode) for i in found[0]]
        discard(intent.path for intent in intents)
        back = [intent for intent in intents if _holds(intent.path, intent.new) and intent.new != intent.old]
        try:
            make(missing_parents(intent.path for intent in back if intent.old is not None))
            for step in [stage(intent, intent.old) for intent in back]:
                commit(step)
            sync({intent.path.parent for intent in intents})
        except OSError as error:
            raise AgentdError(
                "file-write", cannot("restore", error), hint=f"the old texts are in {self.path}"
            ) from None
        for directory in reversed(found[1]):
            with contextlib.suppress(OSError):
                directory.rmdir()
        self.end()
        return tuple(str(intent.path) for intent in back)

    def _read(self) -> tuple[list[Intent], list[Path]] | None:
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AgentdError("file-read", cannot("read", error)) from None
        try:
            data = json.loads(text)
            files = [Intent(Path(f["path"]), f["old"], f["new"], int(f["mode"])) for f in data["files"]]
            return files, [Path(path) for path in data["made"]]
        except (ValueError, KeyError, TypeError):
            raise AgentdError(
                "file-journal",
                f"cannot read {self.path}: it is damaged, so an interrupted change of files cannot be undone",
                hint=f"look at the files it names, then remove {self.path}",
            ) from None


def _holds(path: Path, text: str | None) -> bool:
    """What cannot be read as a text of ours was put there by somebody else."""
    try:
        return read(path) == text
    except AgentdError:
        return False
