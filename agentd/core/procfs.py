"""Texts of procfs and cgroupfs as values. Reads nothing itself."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

_LISTEN = "0A"
_USER_MANAGER = re.compile(r"^user@\d+\.service$")
_UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """A mounted cgroup hierarchy: `root` is the part of the hierarchy that is visible at `path`."""

    path: str
    root: str
    unified: bool


def cgroup_mounts(mountinfo: str) -> tuple[CgroupMount, ...]:
    """Hierarchies in which systemd may track units: cgroup2 first, then cgroup v1's name=systemd."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        head, tail = left.split(), right.split()
        if len(head) < 5 or len(tail) < 3:
            continue
        unified = tail[0] == "cgroup2"
        if unified or (tail[0] == "cgroup" and "name=systemd" in tail[2].split(",")):
            found.append(CgroupMount(path=_unescape(head[4]), root=_unescape(head[3]), unified=unified))
    return tuple(sorted(found, key=lambda mount: not mount.unified))


def cgroup_directory(mount: CgroupMount, control_group: str) -> str:
    """Where systemd's ControlGroup lies below this mount, which may show only a part of the hierarchy."""
    root = mount.root.rstrip("/")
    inside = control_group
    if root and not root.startswith("/.."):
        if control_group != root and not control_group.startswith(root + "/"):
            return ""
        inside = control_group.removeprefix(root)
    return mount.path.rstrip("/") + "/" + inside.strip("/")


def cgroup_path(proc_cgroup: str) -> str:
    """The path that systemd uses, of /proc/PID/cgroup: the unified one, else that of name=systemd."""
    paths = {}
    for line in proc_cgroup.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        paths[controllers] = path
    unified = paths.get("", "")
    return unified if unified.strip("/") else paths.get("name=systemd", unified)


def unit_of_cgroup(path: str) -> str:
    """The unit in a cgroup's path: of the innermost user manager if there is one, without its sub-cgroups."""
    parts = [part.removeprefix("_") for part in path.split("/") if part]
    managers = [index for index, part in enumerate(parts) if _USER_MANAGER.match(part)]
    below = parts[managers[-1] + 1 :] if managers else parts
    for part in below:
        if part.endswith(_UNIT_SUFFIXES):
            return part
    return parts[managers[-1]] if managers else ""


def pids(cgroup_procs: str) -> frozenset[int]:
    """The pids of a cgroup.procs file; 0 stands for a process outside of our pid namespace."""
    return frozenset(int(word) for word in cgroup_procs.split() if word.isdigit() and word != "0")


def listening_inodes(tables: Iterable[str], port: int) -> frozenset[int]:
    """Socket inodes that listen on the port on loopback or any address (/proc/net/tcp and tcp6)."""
    wanted = f":{port:04X}"
    found = set()
    for table in tables:
        for line in table.splitlines()[1:]:
            fields = line.split()
            if len(fields) < 10 or fields[3] != _LISTEN or not fields[1].endswith(wanted):
                continue
            if _is_local(fields[1].partition(":")[0]):
                found.add(int(fields[9]))
    return frozenset(found)


def mem_available(meminfo: str) -> int:
    """Bytes; 0 when the kernel does not say."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _is_local(address: str) -> bool:
    """Of an address as the kernel prints it: 32-bit words in the machine's byte order."""
    words = [int(address[index : index + 8], 16) for index in range(0, len(address), 8)]
    return is_local(struct.pack(f"={len(words)}I", *words))


def is_local(raw: bytes) -> bool:
    """Whether a listener at this address (4 or 16 bytes) is reached over loopback."""
    if len(raw) == 4:
        four = IPv4Address(raw)
        return four.is_loopback or four.is_unspecified
    six = IPv6Address(raw)
    mapped = six.ipv4_mapped
    if mapped is not None:
        return mapped.is_loopback or mapped.is_unspecified
    return six.is_loopback or six.is_unspecified


def _unescape(text: str) -> str:
    """mountinfo writes blanks and backslashes as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """Of /proc/PID/stat: the state's letter, and the start in clock ticks since the boot."""

    state: str
    start: int


def process_stat(text: str) -> ProcessStat | None:
    """None for a text that is none. The name in brackets may hold anything, brackets too."""
    fields = text.rpartition(")")[2].split()
    return ProcessStat(fields[0], int(fields[19])) if len(fields) > 19 else None


def status_uid(text: str) -> int:
    """The real uid of /proc/PID/status; -1 when it is not told."""
    found = re.search(r"^Uid:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else -1


def cpu_usage(cpu_stat: str) -> float:
    """Seconds of CPU time in a cgroup's cpu.stat; 0.0 when it is not told."""
    found = re.search(r"^usage_usec (\d+)", cpu_stat, re.MULTILINE)
    return int(found[1]) / 1e6 if found else 0.0
