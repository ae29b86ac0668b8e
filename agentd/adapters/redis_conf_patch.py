"""Puts another text into a server's configuration file: the old one or the new one, whatever happens. Blocks.

Everything that can be refused is done on a draft beside the file. What a killed run left there goes at the next call.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentd.adapters.fileset import sync
from agentd.adapters.redis_conf_files import ERRORS, is_mounted, read_text, reason
from agentd.errors import AgentdError

KEPT = 5
"""Backups of ours beside the file."""
PATIENCE = 10.0
"""Seconds to wait for another process that is at the same directory; a change takes milliseconds."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def patch(path: str, old: str, new: str) -> str:
    """See the DataFiles port. Also raises "file-owner", "file-denied", "file-missing", "disk-full", "file-busy" and
    "file-write"; then the file is as it was."""
    real = Path(os.path.realpath(path))
    try:
        with _alone_in(real.parent):
            _discard(real)
            return str(_replace(real, old, new))
    except OSError as error:
        raise _told(real, error) from None


def _replace(real: Path, old: str, new: str) -> Path:
    about = _unchanged(real, old)
    if is_mounted(str(real)):
        raise AgentdError(
            "file-write",
            f"cannot replace {real}: it is a mount point of its own",
            hint="edit it where it is mounted from, or mount its directory instead",
        )
    draft = _staged(real, new, about)
    try:
        backup = _kept_aside(real, old, about)
        try:
            if _identity(os.lstat(real)) != _identity(about):
                raise _changed(real)
            draft.rename(real)
        except (OSError, AgentdError):
            backup.unlink(missing_ok=True)
            raise
    except (OSError, AgentdError):
        draft.unlink(missing_ok=True)
        raise
    sync([real.parent])
    _thin_out(real, backup)
    return backup


def _unchanged(real: Path, old: str) -> os.stat_result:
    text, about = read_text(str(real))
    if text != old:
        raise _changed(real)
    return about


def _identity(about: os.stat_result) -> tuple[int, int, int, int]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _staged(real: Path, text: str, like: os.stat_result) -> Path:
    """A draft with the owner, group and mode of `like`, on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{real.name}.agentd-", suffix=".new", dir=real.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            _give(descriptor, real, like)
            os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            stream.write(text.encode("utf-8", ERRORS))
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _give(descriptor: int, real: Path, like: os.stat_result) -> None:
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) == (like.st_uid, like.st_gid):
        return
    try:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    except OSError as error:
        raise AgentdError(
            "file-owner",
            f"cannot replace {real}: it belongs to user {like.st_uid} and group {like.st_gid},"
            f" and user {os.geteuid()} cannot give them a new file ({reason(error)})",
            hint="nothing was changed; do it as root",
        ) from None


def _kept_aside(real: Path, text: str, like: os.stat_result) -> Path:
    """The old text in a file of its own: a hard link would change with whoever edits the file in place."""
    draft = _staged(real, text, like)
    try:
        backup = _free_name(real)
        draft.rename(backup)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return backup


def _free_name(real: Path) -> Path:
    """By the time in UTC, and a number for the second one within a second and those that follow."""
    now = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    taken = [number for when, number, _ in _backups(real) if when == now]
    return real.with_name(f"{real.name}.agentd-{now}" + (f"-{max(taken) + 1}" if taken else ""))


def _thin_out(real: Path, newest: Path) -> None:
    """Keep the newest ones; `newest` in any case, since the clock may have gone backwards."""
    others = [path for _, _, path in _backups(real) if path != newest]
    for path in others[: max(0, len(others) + 1 - KEPT)]:
        with contextlib.suppress(OSError):
            path.unlink()


def _backups(real: Path) -> list[tuple[str, int, Path]]:
    """(time, number within its second, path) of ours, from old to new."""
    found = _siblings(real, re.escape(f"{real.name}.agentd-") + r"(\d{8}T\d{6})(?:-(\d+))?")
    return sorted((match[1], int(match[2] or 1), path) for path, match in found)


def _discard(real: Path) -> None:
    for path, _ in _siblings(real, re.escape(f".{real.name}.agentd-") + r"[a-z0-9_]{8}\.new"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _siblings(real: Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    wanted = re.compile(pattern)
    found = ((path, wanted.fullmatch(path.name)) for path in real.parent.iterdir())
    return [(path, match) for path, match in found if match is not None]


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """flock on the directory itself, which leaves no file behind and ends with the process."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise AgentdError(
                        "file-busy",
                        f"cannot change files in {directory}: another process of agentd is at it",
                        hint="try again when it has finished",
                    ) from None
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _changed(real: Path) -> AgentdError:
    return AgentdError(
        "file-changed", f"cannot replace {real}: it is no longer what it was when it was read", hint="look at it anew"
    )


def _told(real: Path, error: OSError) -> AgentdError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return AgentdError("file-missing", f"cannot replace {real}: {reason(error)}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AgentdError("file-denied", f"cannot replace {real}: {reason(error)}", hint="nothing was changed")
    if error.errno in _FULL:
        return AgentdError("disk-full", f"cannot replace {real}: {reason(error)}", hint="nothing was changed")
    return AgentdError("file-write", f"cannot replace {real}: {reason(error)}")
