"""How exposed a unit is by what is in effect for its processes: 0 (all of the table) to 10 (nothing of it). Pure.

systemd's own score, of the same range, counts what is written. Only an EFFECTIVE verdict earns anything here: what
cannot be proven from outside earns nothing until a proof has shown it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.hostneeds import OFF
from agentd.findings import Finding, Verdict

WORST = 10.0

WEIGHTS: Mapping[str, int] = {
    "ProtectSystem": 10,
    "SystemCallFilter": 10,
    "NoNewPrivileges": 8,
    "PrivateUsers": 8,
    "CapabilityBoundingSet": 8,
    "ProtectHome": 8,
    "InaccessiblePaths": 6,
    "PrivateDevices": 5,
    "RestrictAddressFamilies": 5,
    "PrivateTmp": 4,
    "RestrictNamespaces": 4,
    "MemoryMax": 4,
    "ProtectKernelTunables": 3,
    "ProtectKernelModules": 3,
    "ProtectControlGroups": 3,
    "SystemCallArchitectures": 3,
    "MemoryDenyWriteExecute": 3,
    "TasksMax": 3,
    "ProtectKernelLogs": 2,
    "RestrictSUIDSGID": 2,
    "RestrictRealtime": 2,
    "ProtectClock": 1,
    "ProtectHostname": 1,
    "LockPersonality": 1,
    "KeyringMode": 1,
    "UMask": 1,
    "LimitCORE": 1,
}
"""Directives that a user's manager can carry out; by what an intruder could do without them."""

BEYOND: Mapping[str, int] = {
    "PrivateNetwork": 5,
    "IPAddressDeny": 5,
    "PrivatePIDs": 4,
    "DevicePolicy": 3,
    "ProtectProc": 3,
    "RestrictNetworkInterfaces": 2,
    "SocketBindDeny": 2,
    "ProcSubset": 1,
    "PrivateIPC": 1,
}
"""Not everywhere to be had, so that nothing is lost without them; they make up for what is missing of WEIGHTS."""

_STRENGTH: Mapping[tuple[str, str], float] = {
    ("ProtectSystem", "full"): 0.7,
    ("ProtectSystem", "yes"): 0.4,
    ("ProtectSystem", "true"): 0.4,
    ("ProtectHome", "read-only"): 0.7,
    ("DevicePolicy", "auto"): 0.0,
    ("ProtectProc", "default"): 0.0,
    ("ProcSubset", "all"): 0.0,
    ("UMask", "022"): 0.0,
    ("UMask", "0022"): 0.0,
    ("KeyringMode", "inherit"): 0.0,
    ("KeyringMode", "shared"): 0.0,
    ("MemoryMax", "infinity"): 0.0,
    ("TasksMax", "infinity"): 0.0,
}
"""Directive and value -> the part of the weight that it earns; the others earn all of it, "no" and its like nothing."""

_DENY_LIST = 0.6
"""Of a list that begins with "~": it forbids what it names and allows all the rest."""
_ZERO_COUNTS = frozenset({"LimitCORE", "MemoryMax", "TasksMax"})
EMPTY = "(empty)"
ASKS_FOR_NOTHING = "asks for nothing"
"""Two words of findings: a list that was reset, and a value that is the default."""
_DIRECTIVE = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Part:
    """What one directive contributes: `earned` of `weight`."""

    directive: str
    weight: int
    earned: float


def exposure(findings: Iterable[Finding]) -> float:
    """The score of one unit's findings, with one decimal."""
    found = parts(findings)
    whole = sum(WEIGHTS.values())
    earned = min(sum(part.earned for part in found), float(whole))
    return round(WORST * (1 - earned / whole), 1)


def parts(findings: Iterable[Finding]) -> tuple[Part, ...]:
    """Every directive of WEIGHTS, and those of BEYOND that earn something, heaviest first."""
    by_directive: dict[str, list[Finding]] = {}
    for finding in findings:
        match = _DIRECTIVE.match(finding.aspect)
        if match is not None:
            by_directive.setdefault(match[0], []).append(finding)
    found = []
    for name, weight in {**WEIGHTS, **BEYOND}.items():
        strength = _strength(name, by_directive.get(name, ()))
        if strength or name in WEIGHTS:
            found.append(Part(name, weight, weight * strength))
    return tuple(sorted(found, key=lambda part: -part.weight))


def _strength(directive: str, findings: Sequence[Finding]) -> float:
    """0 to 1. Of several findings about one directive (one for each path) the weakest counts."""
    return min((_of_finding(directive, finding) for finding in findings), default=0.0)


def _of_finding(directive: str, finding: Finding) -> float:
    if finding.verdict is not Verdict.EFFECTIVE or finding.effective == ASKS_FOR_NOTHING:
        return 0.0
    value = (finding.declared or finding.loaded or finding.effective).strip().lower()
    if directive == "CapabilityBoundingSet":
        return 1.0 if value in ("", EMPTY) else _DENY_LIST
    if value in OFF | {EMPTY} and directive not in _ZERO_COUNTS:
        return 0.0
    known = _STRENGTH.get((directive, value))
    if known is not None:
        return known
    return _DENY_LIST if value.startswith("~") else 1.0
