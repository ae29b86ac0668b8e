"""The sandbox's own cgroup: found, made, and removed with everything in it.

A cgroup is the one thing of a sandbox that the kernel does not drop with the namespaces, so its name carries the
process that owns it and every run first sweeps what a killed run left behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "agentd-sandbox-"
_CONTROLLERS = ("cpu", "memory", "pids", "io", "cpuset")
_REMOVE_SECONDS = 5.0


def mount_point(mountinfo: str = "/proc/self/mountinfo") -> Path | None:
    """Where cgroup v2 is mounted: all of /sys/fs/cgroup, or `unified` on a hybrid machine.

    The last one that can be seen: a later mount may cover an earlier one.
    """
    for line in reversed(Path(mountinfo).read_text().splitlines()):
        fields, _, tail = line.partition(" - ")
        path = Path(fields.split()[4].encode().decode("unicode_escape"))
        if tail.split()[0] == "cgroup2" and (path / "cgroup.procs").exists():
            return path
    return None


def current(mount: Path) -> Path:
    """The cgroup v2 of this process."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return mount / line[3:].lstrip("/")
    return mount


def writable(path: Path) -> bool:
    """True when this process may make a cgroup below `path` and move its own processes there."""
    return os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK)


def parent(mount: Path) -> Path | None:
    """Where the sandbox's cgroup goes: root's at the top, a user's below the delegated cgroup it runs in."""
    if os.geteuid() == 0 and writable(mount):
        return mount
    here = current(mount)
    return here if writable(here) else None


def start_time(pid: int) -> str:
    """The process's start in clock ticks; with the pid it names a process for good. "" when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def create(parent: Path) -> Path:
    """A fresh cgroup below `parent`, owned by this process."""
    pid = os.getpid()
    path = parent / f"{PREFIX}{pid}-{start_time(pid)}"
    path.mkdir()
    return path


def delegate(path: Path) -> None:
    """Hand the controllers that are there on to the children; quietly none where the parent gives none."""
    available = (path / "cgroup.controllers").read_text().split()
    for name in _CONTROLLERS:
        if name in available:
            try:
                (path / "cgroup.subtree_control").write_text(f"+{name}")
            except OSError:
                continue


def sweep(parent: Path) -> int:
    """Remove the empty sandbox cgroups whose owner has gone; returns how many.

    Nothing is killed: the owner may live in a pid namespace that is not ours.
    """
    removed = 0
    for path in parent.glob(PREFIX + "*"):
        pid, _, start = path.name.removeprefix(PREFIX).partition("-")
        if pid.isdigit() and start_time(int(pid)) != start and not populated(path):
            removed += remove(path)
    return removed


def populated(path: Path) -> bool:
    """True while a process lives in the cgroup or below it."""
    try:
        return "populated 1" in (path / "cgroup.events").read_text()
    except OSError:
        return False


def remove(path: Path, seconds: float = _REMOVE_SECONDS) -> bool:
    """Kill what is left in the cgroup and remove it with all its children; False when processes will not go."""
    deadline = time.monotonic() + seconds
    while path.exists():
        for child in _bottom_up(path):
            try:
                child.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                _kill(child)
        if time.monotonic() > deadline:
            return False
        if path.exists():
            time.sleep(0.01)
    return True


def _bottom_up(path: Path) -> Iterator[Path]:
    for root, _, _ in os.walk(path, topdown=False):
        yield Path(root)


def _kill(path: Path) -> None:
    try:
        (path / "cgroup.kill").write_text("1")
    except OSError:
        return
