"""What validation says: one statement with its check, severity, place, value and fix."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.core.gateway.tree import Place
from agentd.findings import Severity


@dataclass(frozen=True, slots=True)
class Problem:
    """`check`: the id of the check, for instance "fallback-cycle". `value`: as written, never a secret.

    An ERROR keeps a config from being generated; a WARNING and INFO do not.
    """

    check: str
    severity: Severity
    place: Place
    value: str
    text: str
    """One sentence: what is wrong."""
    fix: str
    """One sentence or a command: what to do."""


def errors(problems: tuple[Problem, ...] | list[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity is Severity.ERROR]
