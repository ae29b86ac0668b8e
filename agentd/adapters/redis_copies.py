"""Copies of a server's data files: whole under their name, or not there at all. Blocks, and beats while it works."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agentd.adapters.file_threads import Pulse
from agentd.adapters.fileset import missing_parents, sync
from agentd.adapters.redis_conf_files import reason
from agentd.errors import AgentdError
from agentd.stores import FileDigest

PIECE = 1024 * 1024
SYNC_EVERY = 64 * 1024**2
"""Bytes written before they are brought to the disk: a gigabyte at once would keep the server's own fsync waiting."""
HEADROOM = 1.05
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    path: str
    descriptor: int
    size: int
    """When it was opened; what is appended later is not copied."""


def copy(sources: Mapping[str, str], target: str, pulse: Pulse) -> tuple[FileDigest, ...]:
    """See the DataFiles port. Also raises "file-exists", "file-busy", "file-changed" (a source became shorter) and
    Stopped; then nothing of it is left. The answer is sorted by path."""
    place = Path(os.path.abspath(target))  # noqa: PTH100 - no link is to be resolved
    partial = place.with_name(place.name + ".partial")
    for name in sources:
        _check_name(name)
    with contextlib.ExitStack() as stack:
        # All of them before the first is copied: a rewrite may unlink one meanwhile.
        opened = [_opened(name, path, stack) for name, path in sorted(sources.items())]
        try:
            if os.path.lexists(place):
                raise AgentdError("file-exists", f"cannot copy to {place}: it exists already")
            _make_parents(place)
            _check_space(place.parent, sum(source.size for source in opened))
            with _fresh(partial):
                found = _fill(partial, opened, pulse)
                partial.rename(place)
            _make_last(place)
        except OSError as error:
            raise _told(place, error) from None
    return found


def digest(directory: str, pulse: Pulse) -> tuple[FileDigest, ...]:
    """Of every file below, sorted by path. Raises AgentdError("file-missing", "file-denied", "file-read"), Stopped."""
    root = Path(directory)
    with contextlib.ExitStack() as stack:
        if not root.is_dir():
            raise AgentdError("file-missing", f"cannot read {root}: no such directory")
        names = sorted(str(path.relative_to(root)) for path in _below(root))
        found = []
        for name in names:
            source = _opened(name, str(root / name), stack, links=False)
            found.append(FileDigest(name, source.size, _sum(source, None, pulse)))
            stack.close()
    return tuple(found)


def _below(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise _unread(str(error.filename), error)

    for folder, _, files in os.walk(root, onerror=refuse):
        yield from (Path(folder) / name for name in files)


def _check_name(name: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts:
        raise AgentdError("file-outside", f"cannot copy to {name!r}: not a name below the target")


def _opened(name: str, path: str, stack: contextlib.ExitStack, *, links: bool = True) -> _Source:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _unread(path, error) from None
    stack.callback(os.close, descriptor)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        raise AgentdError("file-read", f"cannot read {path}: not a regular file")
    return _Source(name, path, descriptor, about.st_size)


def _make_parents(place: Path) -> None:
    for directory in missing_parents([place]):
        directory.mkdir(0o700, exist_ok=True)
        sync([directory.parent])


def _check_space(directory: Path, wanted: int) -> None:
    about = os.statvfs(directory)
    free, needed = about.f_bavail * about.f_frsize, int(wanted * HEADROOM)
    if free < needed:
        raise AgentdError(
            "disk-full",
            f"cannot copy to {directory}: {needed} bytes are needed and {free} are free",
            hint="free some space there, or choose another directory",
        )


@contextlib.contextmanager
def _fresh(partial: Path) -> Iterator[None]:
    """The directory, empty and ours alone. It is gone afterwards, unless it was renamed."""
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise AgentdError("file-exists", f"cannot copy to {partial}: something else is there")
    with contextlib.suppress(FileExistsError):
        partial.mkdir(0o700)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _claim(descriptor, partial)
        try:
            _empty(partial)  # What a killed run left.
            os.fchmod(descriptor, 0o700)
            yield
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _claim(descriptor: int, partial: Path) -> None:
    """The lock ends with the descriptor, and so with the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(descriptor), os.lstat(partial))
    except (BlockingIOError, FileNotFoundError):
        ours = False
    except OSError:
        with contextlib.suppress(OSError):
            partial.rmdir()
        raise
    if not ours:  # Who had it renamed or removed it meanwhile.
        raise AgentdError("file-busy", f"cannot copy to {partial}: another process is at it")


def _make_last(place: Path) -> None:
    """What may be gone after a power cut is not left there as if it were safe."""
    try:
        sync([place.parent])
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fill(partial: Path, sources: list[_Source], pulse: Pulse) -> tuple[FileDigest, ...]:
    found = []
    folders = {partial}
    for source in sources:
        path = partial / source.name
        for folder in reversed(path.relative_to(partial).parents[:-1]):
            if partial / folder not in folders:
                (partial / folder).mkdir(0o700)
                folders.add(partial / folder)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            found.append(FileDigest(str(PurePosixPath(source.name)), source.size, _sum(source, descriptor, pulse)))
        finally:
            os.close(descriptor)
    sync(folders)
    return tuple(sorted(found, key=lambda item: item.path))


def _sum(source: _Source, into: int | None, pulse: Pulse) -> str:
    """The checksum of what was read, and written to `into`."""
    sha, done, synced = hashlib.sha256(), 0, 0
    buffer = memoryview(bytearray(PIECE))
    while done < source.size:
        pulse.beat()
        try:
            count = os.preadv(source.descriptor, [buffer[: min(PIECE, source.size - done)]], done)
        except OSError as error:
            raise _unread(source.path, error) from None
        if count == 0:
            raise AgentdError(
                "file-changed", f"cannot copy {source.path}: it became shorter than {source.size} bytes meanwhile"
            )
        sha.update(buffer[:count])
        if into is not None:
            _write(into, buffer[:count])
        done += count
        if into is not None and done - synced >= SYNC_EVERY:
            os.fdatasync(into)
            synced = done
    if into is not None:
        os.fsync(into)
    return sha.hexdigest()


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _unread(path: str, error: OSError) -> AgentdError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return AgentdError("file-missing", f"cannot read {path}: {reason(error)}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AgentdError(
            "file-denied",
            f"cannot read {path}: {reason(error)} for user {os.geteuid()}",
            hint="join the group of the file, or do it as root",
        )
    return AgentdError("file-read", f"cannot read {path}: {reason(error)}")


def _told(place: Path, error: OSError) -> AgentdError:
    if error.errno in _FULL:
        return AgentdError("disk-full", f"cannot copy to {place}: {reason(error)}", hint="nothing was kept of it")
    return AgentdError("file-write", f"cannot copy to {place}: {reason(error)}")
