"""How findings about the host are put together, and the commands that they name. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agentd.core.hostneeds import joined
from agentd.evidence import HostEvidence
from agentd.findings import Finding, Severity, Verdict, severity_of

HOST = "host"


def fine(aspect: str, effective: str) -> Finding:
    return Finding(HOST, aspect, Verdict.EFFECTIVE, Severity.OK, effective=effective)


def problem(
    aspect: str,
    verdict: Verdict,
    cause: str,
    fix: str,
    *,
    declared: Iterable[object] = (),
    effective: str = "",
    severity: Severity | None = None,
) -> Finding:
    """`severity`: the usual one of the verdict."""
    level = severity_of(verdict) if severity is None else severity
    return Finding(HOST, aspect, verdict, level, declared=joined(declared), effective=effective, cause=cause, fix=fix)


def manager_unit(host: HostEvidence) -> str:
    return f"user@{host.uid}.service"


def setup_command(host: HostEvidence) -> str:
    return f"sudo agentctl host-setup --apply --user {host.uid}"


def setup_and_restart(host: HostEvidence) -> str:
    """Delegation and limits reach the user's manager at its start only."""
    return (
        f"{setup_command(host)}, then sudo systemctl restart {manager_unit(host)}"
        " (daemon-reload is not enough; it ends every service of the user)"
    )


def in_user_unit(host: HostEvidence, line: str, pam: str = "") -> str:
    """How root gives the user's manager one more setting; `pam`: the line for limits.d, where PAM has the last word."""
    also = f', "{pam}" in a file of /etc/security/limits.d' if pam else ""
    return (
        f'sudo systemctl edit user@.service with the lines "[Service]" and "{line}"{also}, then sudo systemctl restart '
        f"{manager_unit(host)} (it ends every service of the user)"
    )
