"""What is said when files of a backup cannot be read or written, and to whom they belong. Blocks."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from agentd.adapters.redis_conf_files import reason
from agentd.errors import AgentdError

HEADROOM = 1.05
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def told(doing: str, path: object, error: OSError, *, hint: str = "") -> AgentdError:
    """`doing` follows "cannot"."""
    text = f"cannot {doing} {path}: {reason(error)}"
    if error.errno in _FULL:
        return AgentdError("disk-full", text, hint=hint or "free some space there")
    if error.errno in _DENIED:
        return AgentdError("file-denied", f"{text} for {me()}", hint=hint)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return AgentdError("file-missing", text, hint=hint)
    return AgentdError("file-write", text, hint=hint)


def no_space(directory: Path, wanted: int) -> None:
    """Raises AgentdError("disk-full") when there is not room for `wanted` bytes and a little more; OSError."""
    about = os.statvfs(directory)
    free, needed = about.f_bavail * about.f_frsize, int(wanted * HEADROOM)
    if free < needed:
        raise AgentdError(
            "disk-full",
            f"cannot write to {directory}: {needed} bytes are needed and {free} are free",
            hint="free some space there",
        )


def me() -> str:
    return f"user {user(os.geteuid())}"


def access(path: str) -> str:
    """A hint for who cannot read a file of a server."""
    try:
        about = os.stat(path)  # noqa: PTH116
    except OSError:
        return f"we are {me()}, who cannot look into {Path(path).parent}; run agentd as root, or as the server's user"
    owner, group, mode = user(about.st_uid), _group(about.st_gid), stat.S_IMODE(about.st_mode)
    text = f"it belongs to {owner}:{group} (mode {mode:04o}) and we are {me()}; "
    if mode & stat.S_IRGRP:
        return text + f"join the group (usermod -aG {group} {user(os.geteuid())}, then log in anew) or run it as root"
    return text + f"run it as root or as {owner}"


def user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
