"""A canary's report as it stands in its file, taken for what it is: the words of a process in a service's sandbox."""

from __future__ import annotations

import json

from agentd.evidence import ActResult


def parse(text: str) -> tuple[ActResult, ...] | None:
    """None when the report is not whole or not one."""
    results: list[ActResult] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return None
        if not isinstance(row, dict):
            return None
        if "done" in row:
            return tuple(results) if row["done"] == len(results) else None
        result = _result(row)
        if result is None:
            return None
        results.append(result)
    return None


def _result(row: dict[str, object]) -> ActResult | None:
    act, allowed, errno, detail = (row.get(key) for key in ("act", "allowed", "errno", "detail"))
    texts = isinstance(act, str) and isinstance(errno, str) and isinstance(detail, str)
    if not texts or not (allowed is None or isinstance(allowed, bool)):
        return None
    return ActResult(str(act), allowed, str(errno), str(detail)[:200])
