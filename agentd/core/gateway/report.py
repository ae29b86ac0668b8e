"""Problems as text for people and as JSON for programs, and the exit code that sums them up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from agentd.core.gateway.problems import Problem
from agentd.findings import Severity

CLEAN, ERRORS = 0, 3
"""Exit codes, as cli/exits.py has them (OK and REFUSED)."""
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.INFO, Severity.OK)


def exit_code(problems: Iterable[Problem], *, strict: bool = False) -> int:
    """3 for errors, with `strict` for warnings too; else 0."""
    worst = (Severity.ERROR, Severity.WARNING) if strict else (Severity.ERROR,)
    return ERRORS if any(problem.severity in worst for problem in problems) else CLEAN


def counts(problems: Iterable[Problem]) -> dict[str, int]:
    """Severity -> how many, the worst first."""
    found = Counter(problem.severity for problem in problems)
    return {severity.value: found[severity] for severity in _ORDER if found[severity]}


def summary(problems: Sequence[Problem]) -> str:
    """ "2 errors, 1 warning", or "no problems"."""
    words = [f"{count} {name}{_plural(name, count)}" for name, count in counts(problems).items()]
    return ", ".join(words) or "no problems"


def as_line(problem: Problem) -> str:
    """ "providers.yaml:3:5: error: TEXT [CHECK]" as editors and CI read it."""
    return f"{problem.place}: {problem.severity}: {problem.text} [{problem.check}]"


def as_text(problems: Sequence[Problem]) -> str:
    """Two lines for each, then the sum."""
    lines: list[str] = []
    for problem in problems:
        lines.append(as_line(problem))
        if problem.fix:
            lines.append(f"    fix: {problem.fix}")
    lines.append(summary(problems))
    return "\n".join(lines) + "\n"


def as_records(problems: Iterable[Problem]) -> list[dict[str, object]]:
    """For JSON; `line` and `column` are 0 where a file is meant as a whole."""
    return [
        {
            "check": problem.check,
            "severity": problem.severity.value,
            "file": problem.place.file,
            "line": problem.place.line,
            "column": problem.place.column,
            "value": problem.value,
            "text": problem.text,
            "fix": problem.fix,
        }
        for problem in problems
    ]


def as_json(problems: Sequence[Problem]) -> str:
    """{"ok": ..., "counts": {...}, "problems": [...]}; `ok`: there is no error."""
    document = {
        "ok": exit_code(problems) == CLEAN,
        "counts": counts(problems),
        "problems": as_records(problems),
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def _plural(name: str, count: int) -> str:
    return "" if count == 1 or name in ("info", "ok") else "s"
