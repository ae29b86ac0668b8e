"""What declared drop-ins ask of the host: controllers, user namespaces, resource limits, priorities. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.dropin import DropIn
from agentd.core.quantities import QuantityError, parse_bytes, parse_seconds

CONTROLLERS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CPUWeight", "StartupCPUWeight", "CPUQuota"),
    "cpuset": ("AllowedCPUs", "StartupAllowedCPUs", "AllowedMemoryNodes", "StartupAllowedMemoryNodes"),
    "io": (
        *("IOWeight", "StartupIOWeight", "IODeviceWeight", "IODeviceLatencyTargetSec"),
        *("IOReadBandwidthMax", "IOWriteBandwidthMax", "IOReadIOPSMax", "IOWriteIOPSMax"),
    ),
    "memory": ("MemoryMin", "MemoryLow", "MemoryHigh", "MemoryMax", "MemorySwapMax", "MemoryZSwapMax"),
    "pids": ("TasksMax",),
}
"""Controller -> directives that do nothing without it."""

LIMITS: Mapping[str, str] = {
    "LimitCPU": "Max cpu time",
    "LimitFSIZE": "Max file size",
    "LimitDATA": "Max data size",
    "LimitSTACK": "Max stack size",
    "LimitCORE": "Max core file size",
    "LimitRSS": "Max resident set",
    "LimitNPROC": "Max processes",
    "LimitNOFILE": "Max open files",
    "LimitMEMLOCK": "Max locked memory",
    "LimitAS": "Max address space",
    "LimitLOCKS": "Max file locks",
    "LimitSIGPENDING": "Max pending signals",
    "LimitMSGQUEUE": "Max msgqueue size",
    "LimitNICE": "Max nice priority",
    "LimitRTPRIO": "Max realtime priority",
    "LimitRTTIME": "Max realtime timeout",
}
"""Directive -> the kernel's name in /proc/PID/limits."""

NAMESPACES = frozenset(
    {
        *("PrivateUsers", "PrivateTmp", "PrivateDevices", "PrivateNetwork", "PrivateIPC", "PrivatePIDs"),
        *("PrivateMounts", "ProtectSystem", "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules"),
        *("ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname", "ReadWritePaths"),
        *("ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths", "BindReadOnlyPaths"),
        *("TemporaryFileSystem", "RootDirectory", "RootImage", "MountAPIVFS", "CapabilityBoundingSet"),
    }
)
"""Directives that a user's manager can only carry out in a user namespace."""

SECCOMP = frozenset(
    {
        *("SystemCallFilter", "SystemCallArchitectures", "SystemCallLog", "RestrictAddressFamilies"),
        *("RestrictNamespaces", "RestrictSUIDSGID", "RestrictRealtime", "LockPersonality", "MemoryDenyWriteExecute"),
    }
)
BPF = frozenset({"SocketBindAllow", "SocketBindDeny", "RestrictNetworkInterfaces", "RestrictFileSystems"})

OFF = frozenset({"", "no", "false", "off", "0", "n", "f"})
INFINITY = float("inf")
_BYTE_LIMITS = frozenset({"FSIZE", "DATA", "STACK", "CORE", "RSS", "AS", "MEMLOCK", "MSGQUEUE"})
_TIME_LIMITS: Mapping[str, float] = {"CPU": 1.0, "RTTIME": 1e6}
"""What the kernel counts in one second. A bare number is of its units."""


@dataclass(frozen=True, slots=True)
class Need:
    """The last assignment of a directive of a unit."""

    unit: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value} ({self.unit})"


def needs(declared: Sequence[DropIn]) -> tuple[Need, ...]:
    """One for each directive of [Service] of each unit; an empty value stands only where it means something."""
    last: dict[tuple[str, str], str] = {}
    for dropin in sorted(declared, key=lambda found: found.path):
        for key, value in _service(dropin.body):
            last[dropin.unit, key] = value
    return tuple(
        Need(unit, key, value)
        for (unit, key), value in sorted(last.items())
        if value or key in ("CapabilityBoundingSet", "AmbientCapabilities")
    )


def joined(found: Iterable[object], most: int = 4) -> str:
    """ "a, b, c, d and 3 more"."""
    words = [str(item) for item in found]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def of_controller(found: Iterable[Need], controller: str) -> tuple[Need, ...]:
    """Those that do nothing without the controller; a limit of infinity asks for none."""
    return tuple(n for n in found if n.key in CONTROLLERS[controller] and n.value != "infinity")


def of_namespaces(found: Iterable[Need]) -> tuple[Need, ...]:
    switched_on = (n for n in found if n.key in NAMESPACES)
    return tuple(n for n in switched_on if n.key == "CapabilityBoundingSet" or n.value.lower() not in OFF)


def limit_of(key: str, value: str) -> float | None:
    """The wanted hard limit, in the kernel's units, of LimitX=HARD or SOFT:HARD; None when it cannot be read."""
    text, name = value.rpartition(":")[2].strip(), key.removeprefix("Limit")
    if text == "infinity":
        return INFINITY
    try:
        if name in _BYTE_LIMITS:
            return float(parse_bytes(text))
        if name in _TIME_LIMITS:
            bare = name == "RTTIME" and text.isascii() and text.isdigit()
            return float(text) if bare else parse_seconds(text) * _TIME_LIMITS[name]
    except QuantityError:
        return None
    if name == "NICE" and re.fullmatch(r"[+-]\d+", text):
        return 20.0 - int(text)
    return float(text) if text.isascii() and text.isdigit() else None


def kernel_limit(text: str) -> float | None:
    """A value of /proc/PID/limits or of a cgroup's file."""
    if text in ("unlimited", "max"):
        return INFINITY
    return float(text) if text.isascii() and text.isdigit() else None


def memory_of(value: str, total: int) -> float | None:
    """Bytes of MemoryMax= and its like; a percentage is of the host's memory."""
    if value == "infinity":
        return INFINITY
    if value.endswith("%"):
        share = _number(value[:-1])
        return None if share is None or not total else total * share / 100
    try:
        return float(parse_bytes(value))
    except QuantityError:
        return None


def quota_of(value: str) -> float | None:
    """CPUs of CPUQuota=: "150%" is 1.5."""
    share = _number(value.removesuffix("%")) if value.endswith("%") else None
    return None if share is None else share / 100


def cpus_of(value: str) -> frozenset[int] | None:
    """ "0-2 5" or "0-2,5"; None when it cannot be read."""
    found: set[int] = set()
    for part in re.split(r"[\s,]+", value.strip()):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if match is None:
            return None
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) else None


def _service(body: str) -> Iterable[tuple[str, str]]:
    section = ""
    for raw in body.splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            yield key.strip(), value.strip()
