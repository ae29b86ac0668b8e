"""Verified statements: what was declared, what systemd loaded, what the kernel does, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The last word about one directive of one unit, or about one aspect of the host."""

    EFFECTIVE = "effective"
    NOT_EFFECTIVE = "not-effective"
    NOT_LOADED = "not-loaded"
    """systemd does not have it: the file is missing, not read yet, or systemd does not know the directive."""
    NEEDS_RESTART = "needs-restart"
    """Loaded, but the running process was started before."""
    OVERRIDDEN = "overridden"
    """Another file's value won; `Finding.source` names it."""
    NOT_PROVABLE = "not-provable"
    """Nothing that can be read from outside shows it; `agentctl dropins prove` may."""
    NOT_ENFORCEABLE = "not-enforceable"
    """This scope on this version of systemd, or this kernel, never enforces it."""
    NOT_RUNNING = "not-running"
    """No process to look at."""
    DRIFT = "drift"
    """A file of ours was changed by somebody; it is kept."""
    NOT_INSTALLED = "not-installed"
    """Declared in our configuration, never applied."""


class Severity(StrEnum):
    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject`: a unit, "gpu:INDEX", "slot:NAME" or "host". `aspect`: a directive's name ("ProtectSystem"), a file,
    or what of the host."""

    subject: str
    aspect: str
    verdict: Verdict
    severity: Severity
    declared: str = ""
    loaded: str = ""
    effective: str = ""
    cause: str = ""
    """Why it is not effective, in one sentence; "" when it is."""
    fix: str = ""
    """A command, or one sentence."""
    source: str = ""
    """FILE:LINE that declares it, or that overrides it."""


def severity_of(verdict: Verdict) -> Severity:
    """The usual severity; a caller may choose another."""
    if verdict is Verdict.EFFECTIVE:
        return Severity.OK
    if verdict in (Verdict.NOT_PROVABLE, Verdict.NOT_RUNNING, Verdict.NOT_INSTALLED):
        return Severity.INFO
    if verdict is Verdict.NOT_EFFECTIVE:
        return Severity.ERROR
    return Severity.WARNING
