"""The probes of a service: what its role implies, and what the configuration says on top of it.

A role's probe is a set of defaults below the user's table, field by field: who writes only `period` keeps the role's
check, and who writes only a check keeps the role's timing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from agentd.core.schema import Probe, Service
from agentd.types import ProbeKind

Table = dict[str, Any]

HANDLERS = ("http", "tcp", "redis", "exec")

_HANDLER_OF_ROLE: Mapping[str, Table] = {
    "model": {"http": {"path": "/health"}},
    "runtime": {"http": {"path": "/api/version"}},
    "gateway": {"http": {"path": "/health/liveliness"}},
    "store": {"redis": True},
}
_STARTUP_SECONDS = {"runtime": 120.0, "gateway": 180.0, "store": 120.0}
"""How long a start may take before the startup probe gives up; a model says it itself (`ready_timeout`).
LiteLLM needs 9 to 64 s from start to its first answer, by load of the machine."""
_TIMING: Mapping[ProbeKind, Table] = {
    ProbeKind.STARTUP: {"period": 1.0, "timeout": 3.0},
    ProbeKind.READINESS: {"period": 10.0, "timeout": 3.0},
    ProbeKind.LIVENESS: {"period": 10.0, "timeout": 5.0},
}


def role_has_probes(role: str) -> bool:
    return role in _HANDLER_OF_ROLE


def complete(table: Table, kind: ProbeKind, role: str, ready_timeout: float) -> Table:
    """A probe's checked table with the role's defaults below it. A switched-off probe stays as it is."""
    if table.get("none") or not role_has_probes(role):
        return dict(table)
    handler = {} if any(table.get(name) for name in HANDLERS) else _HANDLER_OF_ROLE[role]
    filled = {**handler, **_TIMING[kind], **table}
    if kind is ProbeKind.STARTUP:
        seconds = ready_timeout if role == "model" else _STARTUP_SECONDS[role]
        filled.setdefault("failure_threshold", min(max(1, math.ceil(seconds / filled["period"])), 1_000_000))
    return filled


def effective_probes(service: Service) -> Mapping[ProbeKind, Probe]:
    """The probes to run, in the order startup, readiness, liveness; a kind that is off or has no check is left out."""
    ready_timeout = service.model.ready_timeout if service.model else 0.0
    chosen = {}
    for kind in ProbeKind:
        probe: Probe | None = getattr(service, kind.value)
        if probe is None:
            probe = msgspec.convert(complete({}, kind, service.role, ready_timeout), Probe)
        if not probe.none and any(getattr(probe, name) for name in HANDLERS):
            chosen[kind] = probe
    return chosen
