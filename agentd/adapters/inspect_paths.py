"""Paths as another process sees them: looked up below its root, links included."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping

from agentd.evidence import PathEvidence

_LOOK = os.O_PATH | os.O_CLOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_MOST_LINKS = 40
"""The kernel's own limit for one path."""


def look_at(root: int, paths: Iterable[str]) -> Mapping[str, PathEvidence]:
    """`root`: a descriptor (O_PATH is enough) of the root directory, which no link or ".." leaves."""
    return {path: _look(root, path) for path in paths}


def refused(paths: Iterable[str], number: int) -> Mapping[str, PathEvidence]:
    """Evidence of paths whose root could not be opened."""
    return {path: PathEvidence(exists=False, problem=errno_name(number)) for path in paths}


def errno_name(number: int | None) -> str:
    return errno.errorcode.get(number or 0, f"errno {number}")


def _look(root: int, path: str) -> PathEvidence:
    try:
        if not path.startswith("/"):
            return PathEvidence(exists=False, problem="EINVAL")
        fd = open_in_root(root, path)
    except OSError as error:
        return PathEvidence(exists=False, problem="" if error.errno in _ABSENT else errno_name(error.errno))
    except ValueError:  # A NUL, or a character that no file name has.
        return PathEvidence(exists=False, problem="EINVAL")
    try:
        about = os.fstat(fd)
        readonly = bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)
    except OSError as error:
        return PathEvidence(exists=False, problem=errno_name(error.errno))
    finally:
        os.close(fd)
    return PathEvidence(True, readonly, stat.S_IMODE(about.st_mode), about.st_dev, about.st_ino)


def open_in_root(root: int, path: str) -> int:
    """An O_PATH descriptor; raises OSError.

    By openat of one name after another, `opened` being the way from the root down to where we are. The kernel's openat2
    could do it at once, but a system call filter that does not know it might kill us for asking, and since processes
    that see the same are looked at once, it would not be quicker in the end.
    """
    opened = [os.dup(root)]
    links = 0
    try:
        todo = _names(path)
        while todo:
            name = todo.pop()
            if name == "..":
                if len(opened) > 1:
                    os.close(opened.pop())
                continue
            opened.append(os.open(name, _LOOK | os.O_NOFOLLOW, dir_fd=opened[-1]))
            if stat.S_ISLNK(os.fstat(opened[-1]).st_mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink("", dir_fd=opened[-1])
                keep = 1 if target.startswith("/") else len(opened) - 1
                while len(opened) > keep:
                    os.close(opened.pop())
                todo += _names(target)
        return opened.pop()
    finally:
        for fd in opened:
            os.close(fd)


def _names(path: str) -> list[str]:
    """Components, the first one last. "a/" keeps a ".", which only a directory has."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if path.endswith(("/", "/.")) and names:
        names.append(".")
    return names[::-1]
