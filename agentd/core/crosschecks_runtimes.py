"""What no value of a runtime can say alone: that its policy, its manager and its role fit together."""

from __future__ import annotations

from typing import Protocol

from agentd.core.layers import KeyPath
from agentd.core.schema import Runtime, Service, Settings

_WHOSE = {"system": "a unit of the system's manager", "container": "a container"}


class Report(Protocol):
    def __call__(self, path: KeyPath, message: str, value: object = None, allowed: str = "") -> None: ...

    def known_bad(self, path: KeyPath) -> bool: ...


def check(settings: Settings, report: Report) -> None:
    for name, service in settings.services.items():
        at = ("services", name)
        if report.known_bad((*at, "role")) or report.known_bad((*at, "runtime")):
            continue
        if service.role != "runtime":
            if service.runtime != Runtime():
                report((*at, "runtime"), f'is only for role "runtime", the role is "{service.role}"')
        elif not service.own_unit and not report.known_bad((*at, "runtime", "managed")):
            _outside(at, service, settings, report)


def _outside(at: KeyPath, service: Service, settings: Settings, report: Report) -> None:
    """Of what is not ours nothing can be stopped, started or written."""
    whose = f"{_WHOSE[service.runtime.managed]} (see managed)"
    if service.runtime.policy == "stop_unit":
        report(
            (*at, "runtime", "policy"),
            f"needs a unit of agentd's own manager, this is {whose}",
            "stop_unit",
            '"evict", "cpu_only", "ignore"',
        )
    if service.gate:
        report((*at, "gate"), f"needs a unit of agentd's own manager, this is {whose}", True)
    if service.on_liveness == "restart":
        report((*at, "on_liveness"), f"needs a unit of agentd's own manager, this is {whose}", "restart", '"report"')
    if service.runtime.managed == "system" and settings.daemon.scope == "system":
        report(
            (*at, "runtime", "managed"),
            "is for an agentd of a user; this one is the system's, and its units are the system's",
            "system",
            '"unit", "container"',
        )
