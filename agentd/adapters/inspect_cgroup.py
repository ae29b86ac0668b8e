"""A unit's cgroup in cgroupfs: its processes, and the limits of every level up to the root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from agentd.adapters.inspect_process import text_of
from agentd.core import procfs
from agentd.evidence import CgroupLevel

LIMITS = frozenset(
    {
        *("cgroup.controllers", "cgroup.subtree_control", "cgroup.type", "cgroup.events", "cgroup.freeze"),
        *("memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.high", "memory.swap.max"),
        *("memory.zswap.max", "memory.oom.group", "memory.current", "memory.peak", "memory.swap.current"),
        *("memory.events", "pids.max", "pids.current", "pids.peak", "pids.events"),
        *("cpu.max", "cpu.max.burst", "cpu.weight", "cpu.weight.nice", "cpu.idle"),
        *("io.max", "io.weight", "io.bfq.weight", "io.latency", "io.prio.class"),
        *("cpuset.cpus", "cpuset.cpus.effective", "cpuset.mems", "cpuset.mems.effective", "cpuset.cpus.partition"),
    }
)
OWN = LIMITS | {"cpu.stat", "memory.events.local", "memory.swap.events"}
"""Of the unit's own cgroup; cpu.stat of a whole slice costs the kernel a sum over all that is in it."""
_NOT_THE_ROOT = "cgroup.events"
"""A file that the root of the hierarchy has not. A container or a cgroup namespace shows another root, with limits."""
_XATTRS = ("delegate", "oomd_avoid", "oomd_omit", "oomd_ooms", "oomd_kill")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cgroup is in the file system."""

    mount: procfs.CgroupMount
    directory: str


class Cgroups:
    """The mounted hierarchies, as they are now."""

    def __init__(self, mountinfo: str = "") -> None:
        self._mounts = procfs.cgroup_mounts(mountinfo or file_text("/proc/self/mountinfo"))

    def find(self, control_group: str) -> Place | None:
        """In the unified hierarchy, else in that of systemd's own v1; never the root itself."""
        if not control_group.strip("/"):
            return None
        return next((place for place in self._places(control_group) if _has(place.directory, "cgroup.procs")), None)

    def root(self) -> Place | None:
        """The visible root of the unified hierarchy."""
        found = (place for place in self._places("/") if place.mount.unified)
        return next((place for place in found if _has(place.directory, "cgroup.controllers")), None)

    def levels(self, control_group: str) -> tuple[CgroupLevel, ...]:
        """From the cgroup up. Empty where systemd does not use cgroup v2."""
        place = self.find(control_group)
        if place is None or not place.mount.unified:
            return ()
        found = []
        wanted = OWN
        for path in _upwards(control_group):
            directory = procfs.cgroup_directory(place.mount, path)
            if not directory or (path == "/" and not _has(directory, _NOT_THE_ROOT)):
                break
            level = _level(path, directory, wanted)
            if level is not None:
                found.append(level)
            wanted = LIMITS
        return tuple(found)

    def pids(self, control_group: str) -> frozenset[int]:
        """Of the cgroup and all below it."""
        place = self.find(control_group)
        found: set[int] = set()
        for folder, _, _ in os.walk(place.directory) if place else ():
            found |= procfs.pids(file_text(f"{folder}/cgroup.procs"))
        return frozenset(found)

    def words(self, control_group: str, name: str) -> tuple[str, ...]:
        """The words of an interface file of the unified hierarchy; none when it is not there."""
        place = self.find(control_group) or (self.root() if not control_group.strip("/") else None)
        return tuple(file_text(f"{place.directory}/{name}").split()) if place and place.mount.unified else ()

    def _places(self, control_group: str) -> Iterator[Place]:
        for mount in self._mounts:
            directory = procfs.cgroup_directory(mount, control_group)
            if not directory and control_group == "/":
                directory = mount.path
            if directory:
                yield Place(mount, directory)


def file_text(path: str) -> str:
    """The text; "" when it is not there, or not ours to read."""
    return text_of(None, path) or ""


def _upwards(control_group: str) -> Iterator[str]:
    """ "/a/b" -> "/a/b", "/a", "/"."""
    path = "/" + control_group.strip("/")
    while path != "/":
        yield path
        path = path.rpartition("/")[0] or "/"
    yield "/"


def _level(path: str, directory: str, wanted: frozenset[str]) -> CgroupLevel | None:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        present = wanted.intersection(os.listdir(fd))  # noqa: PTH208 - of a descriptor
        texts = {name: text_of(fd, name) for name in sorted(present)}
    except OSError:
        return None
    finally:
        os.close(fd)
    return CgroupLevel(path, {name: text for name, text in texts.items() if text is not None}, _xattrs(directory))


def _xattrs(directory: str) -> dict[str, str]:
    found: dict[str, str] = {}
    with suppress(OSError):
        for name in os.listxattr(directory):
            if name.partition(".")[2] in _XATTRS:
                with suppress(OSError):
                    found[name] = os.getxattr(directory, name).decode(errors="replace")
    return found


def _has(directory: str, name: str) -> bool:
    return os.path.exists(f"{directory}/{name}")  # noqa: PTH110 - hot, no Path objects
