"""A server's configuration as it lies on the disk: the main file and all that it includes. Everything here blocks."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from agentd.adapters.inspect_cgroup import file_text
from agentd.adapters.inspect_process import parse_status
from agentd.adapters.redis_glob import glob, has_wildcard
from agentd.core.redis_lines import parse
from agentd.stores import ConfFile, ConfTree

MOST_FILES = 64
LARGEST = 1024 * 1024
_CAP_CHOWN = 1
ERRORS = "surrogateescape"
"""Other bytes than UTF-8 in a comment are nobody's fault, and have to come back unchanged when the file is written."""


def read_tree(path: str, cwd: str = "") -> ConfTree:
    """`cwd`: where relative includes begin, until a `dir` line moves the server (it changes there at once)."""
    walk = _Walk(cwd or os.path.dirname(path) or "/")  # noqa: PTH120
    walk.read(os.path.join(walk.cwd, path), "")  # noqa: PTH118 - an absolute path stays as it was written
    return ConfTree(tuple(walk.files.values()), walk.included)


@dataclass(slots=True)
class _Walk:
    """Through the files in the order in which the server reads them."""

    cwd: str
    files: dict[str, ConfFile] = field(default_factory=dict)
    included: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, path: str, by: str) -> None:
        if path in self.files:
            return
        if len(self.files) >= MOST_FILES:
            self._unread(path, by, f"not read: there are more than {MOST_FILES} files")
            return
        self.files[path] = look_at(path, by)
        for line in parse(self.files[path].text or "", path):
            if len(line.args) != 1:
                continue
            if line.name == "include":
                self._include(line.args[0], path)
            elif line.name == "dir":
                self.cwd = os.path.join(self.cwd, line.args[0])  # noqa: PTH118

    def _include(self, argument: str, by: str) -> None:
        whole = os.path.join(self.cwd, argument)  # noqa: PTH118
        if not has_wildcard(argument):
            self.included.setdefault(argument, (whole,))
            self.read(whole, by)
            return
        found = glob(argument, self.cwd)
        # The server may look where we may not: then it is not known what it includes.
        unknown = (whole,) if found.refused else ()
        self.included.setdefault(argument, found.paths + unknown)
        for path in found.paths:
            self.read(path, by)
        for directory, number in found.refused[:1]:
            self._unread(whole, by, f"cannot look into {directory}: {os.strerror(number).lower()}")

    def _unread(self, path: str, by: str, problem: str) -> None:
        self.files.setdefault(path, ConfFile(path, None, problem, included_by=by))


def look_at(path: str, included_by: str = "") -> ConfFile:
    """One file; why it cannot be read is said in it."""
    link = os.path.realpath(path) if os.path.islink(path) else ""  # noqa: PTH114 - a path, as it was written
    try:
        text, about = read_text(path)
    except OSError as error:
        why, seen = reason(error), _status(path)
        if seen is None:
            return ConfFile(path, None, why, link=link, included_by=included_by)
        text, about = None, seen
    else:
        why = ""
    return ConfFile(
        path=path,
        text=text,
        problem=why,
        mtime=about.st_mtime,
        mode=stat.S_IMODE(about.st_mode),
        uid=about.st_uid,
        link=link,
        mounted=is_mounted(link or path),
        writable=_replaceable(link or path, about),
        included_by=included_by,
    )


def read_text(path: str) -> tuple[str, os.stat_result]:
    """The text, and what the file was when it was read. Raises OSError, also for what is no file and what is too
    large."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)  # A fifo must not hold us.
    with os.fdopen(descriptor, "rb") as stream:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, f"larger than {LARGEST} bytes", path)
    return data.decode("utf-8", ERRORS), about


def is_mounted(path: str) -> bool:
    """A mount point of its own: it hangs on another mount than its directory. Device numbers would not tell, since an
    overlay gives its files those of the layer that they come from."""
    try:
        return _mount_of(path, 0) != _mount_of(os.path.dirname(path) or ".", os.O_DIRECTORY)  # noqa: PTH120
    except OSError:
        return False


def reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError:
        return None


def _mount_of(path: str, flags: int) -> str:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC | flags)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as info:  # noqa: PTH123
            return next((line.split()[1].decode() for line in info if line.startswith(b"mnt_id:")), "")
    finally:
        os.close(descriptor)


def _replaceable(path: str, about: os.stat_result) -> bool:
    """Another one may take its place, with the same owner."""
    directory = os.path.dirname(path) or "."  # noqa: PTH120
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True) or is_mounted(path):
        return False
    ours = about.st_uid == os.geteuid() and about.st_gid in {os.getegid(), *os.getgroups()}
    return ours or _may_give_away()


def _may_give_away() -> bool:
    """CAP_CHOWN, which root has not in every container."""
    mask = parse_status(file_text("/proc/self/status")).get("CapEff", "0")
    return bool(int(mask, 16) & _CAP_CHOWN)
