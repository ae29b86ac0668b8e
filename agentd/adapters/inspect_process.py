"""One process in procfs: its limits, namespaces, mounts, and paths as it sees them.

Everything is read below one descriptor of /proc/PID, so that a pid that is given out again cannot mix two processes.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from agentd.adapters.inspect_paths import errno_name, look_at, refused
from agentd.evidence import Mount, PathEvidence, ProcessEvidence

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_LIMIT = re.compile(r"^(\S.*?) {2,}(\S+) +(\S+)", re.MULTILINE)
_ESCAPE = re.compile(r"\\([0-7]{3})")
_CHUNK = 1 << 16
_PF_EXITING = 0x4
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What every process with the same root directory in the same mount namespace sees."""

    mounts: tuple[Mount, ...]
    paths: Mapping[str, PathEvidence]


@dataclass(slots=True)
class Reader:
    """Reads processes one after another; what two of them must see alike is read once. For one inspection only."""

    paths: Sequence[str] = ()
    proc: str = "/proc"
    _seen: dict[tuple[str, ...], _Seen] = field(default_factory=dict)

    def read_all(self, pids: Iterable[int]) -> tuple[ProcessEvidence, ...]:
        found = (self.read(pid) for pid in sorted(pids))
        return tuple(process for process in found if process is not None)

    def read(self, pid: int) -> ProcessEvidence | None:
        """None when it has ended, maybe while it was read."""
        try:
            folder = os.open(f"{self.proc}/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return self._read(pid, folder)
        finally:
            os.close(folder)

    def _read(self, pid: int, folder: int) -> ProcessEvidence | None:
        namespaces = read_namespaces(folder)
        seen, problem = self._sees(folder, namespaces)
        uid_map = text_of(folder, "uid_map")
        score = text_of(folder, "oom_score_adj")
        status, limits = text_of(folder, "status"), text_of(folder, "limits")
        last = parse_stat(text_of(folder, "stat") or "")
        if last is None or (last.ending and last.threads <= 1):
            return None  # The other texts may be those of a process that was ending.
        if not problem and "mnt" not in namespaces:
            problem = "its namespaces cannot be read"
        return ProcessEvidence(
            pid=pid,
            comm=last.comm,
            started=started_at(last),
            uid_map=None if uid_map is None else " ".join(uid_map.partition("\n")[0].split()),
            status=parse_status(status or ""),
            limits=parse_limits(limits or ""),
            oom_score_adj=None if score is None else int(score),
            nice=last.nice,
            scheduler=last.policy,
            namespaces=namespaces,
            mounts=seen.mounts,
            paths=seen.paths,
            problem=problem,
        )

    def _sees(self, folder: int, namespaces: Mapping[str, str]) -> tuple[_Seen, str]:
        try:
            with _opened("root", os.O_PATH | os.O_DIRECTORY, folder) as root:
                key = (namespaces.get("mnt", ""), *_place(root))
                if not key[0] or key not in self._seen:
                    mounts = parse_mountinfo(text_of(folder, "mountinfo") or "")
                    self._seen[key] = _Seen(mounts, look_at(root, self.paths))
                return self._seen[key], ""
        except OSError as error:
            mounts = parse_mountinfo(text_of(folder, "mountinfo") or "")
            why = f"its root directory cannot be opened: {errno_name(error.errno)}"
            return _Seen(mounts, refused(self.paths, error.errno or 0)), why


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that count here."""

    comm: str
    ending: bool
    """The main thread is on its way out, or a zombie: other threads may go on without it."""
    nice: int
    threads: int
    start_ticks: int
    """Clock ticks after the boot."""
    policy: int


def parse_stat(text: str) -> Stat | None:
    """None for a text that the kernel did not finish. The name in parentheses may contain anything."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    if len(fields) < 39:
        return None
    comm = head.partition("(")[2]
    ending = fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)
    return Stat(comm, ending, int(fields[16]), int(fields[17]), int(fields[19]), int(fields[38]))


def started_at(stat: Stat) -> float:
    """Wall-clock second."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + stat.start_ticks / _TICKS


def parse_status(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, colon, value in pairs if colon}


def parse_limits(text: str) -> dict[str, tuple[str, str]]:
    """By name, (soft, hard); the first line holds the titles."""
    return {name: (soft, hard) for name, soft, hard in _LIMIT.findall(text.partition("\n")[2])}


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    return tuple(mount for line in text.splitlines() if (mount := _mount(line)) is not None)


def _mount(line: str) -> Mount | None:
    left, dash, right = line.partition(" - ")
    head, tail = left.split(" "), right.split(" ")
    if not dash or len(head) < 6 or len(tail) < 3:
        return None
    root, point = (_ESCAPE.sub(lambda match: chr(int(match[1], 8)), text) for text in head[3:5])
    return Mount(point, tail[0], tuple(head[5].split(",")), tuple(tail[2].split(",")), root)


def read_namespaces(folder: int) -> dict[str, str]:
    """`folder`: a descriptor of /proc/PID. Without those that this kernel has not, or does not show to us."""
    found: dict[str, str] = {}
    for name in NAMESPACES:
        with suppress(OSError):
            found[name] = os.readlink(f"ns/{name}", dir_fd=folder)
    return found


def text_of(folder: int | None, name: str) -> str | None:
    """A file of procfs or cgroupfs without the newline at its end; None when it is not there or not ours to read."""
    try:
        with _opened(name, os.O_RDONLY, folder) as fd:
            parts = []
            while part := os.read(fd, _CHUNK):
                parts.append(part)
    except OSError:
        return None
    return b"".join(parts).decode(errors="replace").rstrip("\n")


@contextmanager
def _opened(name: str, flags: int, folder: int | None) -> Iterator[int]:
    fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _place(root: int) -> tuple[str, ...]:
    """Which directory on which mount it is: the same inode may be mounted twice, once read-only."""
    about = os.fstat(root)
    with _opened(f"/proc/self/fdinfo/{root}", os.O_RDONLY, None) as fd:
        info = parse_status(os.read(fd, _CHUNK).decode())
    return (info.get("mnt_id", ""), str(about.st_dev), str(about.st_ino))
