"""Changes of files, told by the kernel: inotify on directories that come and go.

A watch belongs to an inode, not to a path. So every directory above a wanted one is watched for its own removal and
for being moved, the last one that exists also for what appears in it, and after each such event the paths are walked
again.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from agentd.errors import AgentdError

logger = logging.getLogger(__name__)

CLOSE_WRITE, MOVED_FROM, MOVED_TO = 0x8, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF, ATTRIB = 0x100, 0x200, 0x400, 0x800, 0x4
UNMOUNT, OVERFLOW, IGNORED, ISDIR = 0x2000, 0x4000, 0x8000, 0x40000000
_ONLYDIR = 0x01000000

_SELF = DELETE_SELF | MOVE_SELF
_ENTRIES = CREATE | DELETE | MOVED_FROM | MOVED_TO
_FILES = _SELF | _ENTRIES | CLOSE_WRITE | ATTRIB
_LOST = _SELF | UNMOUNT | IGNORED
_EVENT = struct.Struct("iIII")
_BUFFER = 1 << 16


class Inotify:
    """The FileWatch port. `watch()` wants the running loop. `callback(path)`: the path of a file, or of a directory
    that came or went with what is in it; "" when the kernel dropped events and anything may have changed."""

    def __init__(self) -> None:
        self._fd = -1
        self._directories: tuple[str, ...] = ()
        self._callback: Callable[[str], None] = lambda _: None
        self._paths: dict[int, set[str]] = {}
        """Watch descriptor -> the paths that lead to its directory."""
        self._shown: dict[int, set[str]] = {}
        """Of these, the directories whose files are told about."""
        self._masks: dict[str, int] = {}
        self._warned: set[str] = set()
        self.problem = ""
        """Why some directory is not watched; "" when all are."""

    def watch(self, directories: Sequence[str], callback: Callable[[str], None]) -> None:
        """Raises AgentdError("watch-unavailable") when the kernel gives no inotify instance."""
        if self._fd < 0:
            self._open()
        self._directories = tuple(dict.fromkeys(os.path.normpath(path) for path in directories))
        self._callback = callback
        self._walk()

    def close(self) -> None:
        """Idempotent; no callback comes after it."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._paths, self._shown = {}, {}

    def _open(self) -> None:
        fd = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            number = ctypes.get_errno()
            why = "fs.inotify.max_user_instances is used up" if number == errno.EMFILE else os.strerror(number).lower()
            raise AgentdError("watch-unavailable", f"cannot watch files: {why}")
        self._fd = fd
        asyncio.get_running_loop().add_reader(fd, self._readable)

    # -- events -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        told: dict[str, None] = {}
        walk = False
        for wd, mask, name in _events(data):
            if mask & OVERFLOW:
                told[""] = None
                walk = True
            elif wd in self._paths:
                told |= dict.fromkeys(self._told(wd, mask, name))
                walk = walk or self._structural(wd, mask, name)
        if walk:
            told |= dict.fromkeys(self._walk())
        for path in told:
            self._tell(path)

    def _told(self, wd: int, mask: int, name: str) -> Iterator[str]:
        if mask & ISDIR and name and not name.endswith(".d"):
            return
        for directory in self._shown.get(wd, ()):
            if name:
                yield f"{directory}/{name}"
            elif not mask & IGNORED:
                yield directory

    def _structural(self, wd: int, mask: int, name: str) -> bool:
        """Whether other directories have to be watched now."""
        if mask & _LOST:
            if mask & IGNORED:
                del self._paths[wd]
                self._shown.pop(wd, None)
            return True
        if not mask & _ENTRIES:
            return False
        if wd not in self._shown:
            return any(self._on_the_way(f"{above.rstrip('/')}/{name}") for above in self._paths[wd])
        return name.endswith(".d") or any(self._on_the_way(f"{above}/{name}") for above in self._paths[wd])

    def _on_the_way(self, path: str) -> bool:
        return any(wanted == path or wanted.startswith(path + "/") for wanted in self._directories)

    def _tell(self, path: str) -> None:
        if self._fd < 0:
            return
        try:
            self._callback(path)
        except Exception:
            logger.exception("a listener of file changes failed on %s", path or "lost events")

    # -- watches ----------------------------------------------------------------------------------------------

    def _walk(self) -> list[str]:
        """Watch what is there now. Returned: directories that came or went since the last time, and what lies in them,
        since it may have come before the watch did."""
        before, old = self._places(), set(self._paths)
        self._paths, self._shown, self._masks = {}, {}, {}
        self.problem = ""
        for directory in self._directories:
            self._descend(directory)
        for wd in old - self._paths.keys():
            _libc().inotify_rm_watch(self._fd, wd)
        now = self._places()
        changed = [path for path in {**before, **now} if before.get(path) != now.get(path)]
        return [*changed, *(f"{path}/{name}" for path in changed for name in _listed(path))]

    def _places(self) -> dict[str, int]:
        return {path: wd for wd, paths in self._shown.items() for path in paths}

    def _descend(self, directory: str) -> None:
        """From the root down. A directory is looked for again once its parent is watched, lest it comes between."""
        above, *prefixes = _prefixes(directory)
        self._add(above)
        for path in prefixes:
            if os.path.islink(path):  # noqa: PTH114 - many per walk
                self._add(above, _ENTRIES)  # Where it points to may change without a word from there.
            if not self._add(path):
                self._add(above, _ENTRIES)
                if not self._add(path):
                    return
            above = path
        for name in _listed(directory):
            if name.endswith(".d"):
                self._add(f"{directory}/{name}", _FILES)

    def _add(self, path: str, more: int = 0) -> bool:
        """False when there is no such directory. One that we may pass but not read counts as there.

        The mask replaces that of the last walk: what once had to be watched for a missing child must not wake us for
        ever. A wanted directory has its whole mask at every time.
        """
        mask = self._masks.get(path, _SELF) | more | (_FILES if path in self._directories else 0)
        wd = _libc().inotify_add_watch(self._fd, os.fsencode(path), mask | _ONLYDIR)
        if wd < 0:
            return self._refused(path, mask, ctypes.get_errno())
        self._masks[path] = mask
        others = self._paths.setdefault(wd, set())
        if others - {path}:  # Another path to the same directory, whose mask counts too.
            for other in others:
                mask |= self._masks[other]
            _libc().inotify_add_watch(self._fd, os.fsencode(path), mask | _ONLYDIR)
        others.add(path)
        if self._masks[path] & CLOSE_WRITE:
            self._shown.setdefault(wd, set()).add(path)
        return True

    def _refused(self, path: str, mask: int, number: int) -> bool:
        if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        if mask & CLOSE_WRITE or number != errno.EACCES:
            why = "fs.inotify.max_user_watches is used up" if number == errno.ENOSPC else os.strerror(number).lower()
            self.problem = f"cannot watch {path}: {why}"
            if self.problem not in self._warned:
                self._warned.add(self.problem)
                logger.warning("%s", self.problem)
        return number == errno.EACCES


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    """(watch descriptor, mask, name; "" for the directory itself)."""
    at = 0
    while at + _EVENT.size <= len(data):
        wd, mask, _, size = _EVENT.unpack_from(data, at)
        at += _EVENT.size
        yield wd, mask, os.fsdecode(data[at : at + size].rstrip(b"\0"))
        at += size


def _prefixes(path: str) -> list[str]:
    """ "/a/b" -> "/", "/a", "/a/b"."""
    parts = path.strip("/").split("/")
    return ["/", *("/" + "/".join(parts[: index + 1]) for index in range(len(parts)) if parts[0])]


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - many per walk
    except OSError:
        return []


@lru_cache(maxsize=1)
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
    libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)
    return libc
