"""Hard limits of users' managers, written for both that set them: systemd for user@.service, and PAM. Pure.

A user's manager goes through PAM at its start. Where pam_limits takes root's own limits for the defaults (Debian 12),
what user@.service says is overridden, and only limits.d counts; without pam_limits only user@.service does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentd.core.hostlimits import NR_OPEN
from agentd.core.hostneeds import INFINITY, Need, kernel_limit, limit_of
from agentd.evidence import HostEvidence

_SOFT_FILES = 1024
"""What services without LimitNOFILE= get: programs that use select(2) break with more."""
_KERNEL_FILES = 2**20

_ITEMS: Mapping[str, tuple[str, int]] = {
    "LimitCPU": ("cpu", 60),
    "LimitFSIZE": ("fsize", 1024),
    "LimitDATA": ("data", 1024),
    "LimitSTACK": ("stack", 1024),
    "LimitCORE": ("core", 1024),
    "LimitRSS": ("rss", 1024),
    "LimitNPROC": ("nproc", 1),
    "LimitNOFILE": ("nofile", 1),
    "LimitMEMLOCK": ("memlock", 1024),
    "LimitAS": ("as", 1024),
    "LimitLOCKS": ("locks", 1),
    "LimitSIGPENDING": ("sigpending", 1),
    "LimitMSGQUEUE": ("msgqueue", 1),
    "LimitRTPRIO": ("rtprio", 1),
}
"""Directive -> limits.d's name, and how many of the kernel's units are one of its. It knows no LimitRTTIME=."""


def raised(host: HostEvidence, over: Mapping[str, Sequence[Need]], before: Mapping[str, str]) -> dict[str, str]:
    """Assignments for user@.service: each wish that is cut now, and what an earlier run (`before`) has raised."""
    lines = dict(before)
    for key, offenders in over.items():
        wanted = [limit_of(key, need.value) or 0.0 for need in offenders]
        old = limit_of(key, lines[key]) if key in lines else None
        lines[key] = _line(host, key, max(*wanted, old or 0.0))
    return dict(sorted(lines.items()))


def unit_body(lines: Mapping[str, str]) -> str:
    head = "# Hard limits of users' managers: no service of theirs gets beyond them.\n[Service]\n"
    return head + "".join(f"{key}={value}\n" for key, value in lines.items())


def pam_body(lines: Mapping[str, str]) -> str:
    """Of logins too, since PAM knows no difference; soft limits stay as they are but for what has no other use."""
    head = "# The same for PAM, which sets the limits of a user's manager last on some systems.\n"
    return head + "".join(filter(None, (_pam_line(key, limit_of(key, value)) for key, value in lines.items())))


def _line(host: HostEvidence, key: str, value: float) -> str:
    if key != "LimitNOFILE":
        return "infinity" if value == INFINITY else str(int(value))
    if value == INFINITY:
        most = kernel_limit(host.sysctls.get(NR_OPEN, ""))
        value = _KERNEL_FILES if most is None or most == INFINITY else most
    return f"{min(_SOFT_FILES, int(value))}:{int(value)}"


def _pam_line(key: str, value: float | None) -> str:
    if value is None:
        return ""
    if key == "LimitNICE":
        return f"* - nice {20 - int(min(value, 40))}\n"
    if key not in _ITEMS:
        return ""
    item, unit = _ITEMS[key]
    kind = "-" if item == "rtprio" else "hard"
    return f"* {kind} {item} {'unlimited' if value == INFINITY else -(-int(value) // unit)}\n"
