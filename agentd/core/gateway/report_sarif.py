"""Problems as SARIF 2.1.0, the form that code hosts show beside the lines of a change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from agentd.core.gateway.checks import CHECKS
from agentd.core.gateway.problems import Problem
from agentd.findings import Severity

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS: Mapping[Severity, str] = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "note",
    Severity.OK: "none",
}


def as_sarif(problems: Sequence[Problem], version: str, *, base: str = "") -> str:
    """`version`: of agentd. `base`: the sources' directory inside the repository ("deploy/gateway"), put before the
    names of relative files, so that a code host finds them."""
    rules = {item.id: index for index, item in enumerate(CHECKS)}
    run = {
        "tool": {
            "driver": {
                "name": "agentctl gateway validate",
                "semanticVersion": version,
                "rules": [_rule(item.id, item.about, item.severity) for item in CHECKS],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, rules, base) for problem in problems],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, ensure_ascii=False, indent=2) + "\n"


def _rule(name: str, about: str, severity: Severity) -> dict[str, Any]:
    return {
        "id": name,
        "name": "".join(word.capitalize() for word in name.split("-")),
        "shortDescription": {"text": about},
        "fullDescription": {"text": about},
        "defaultConfiguration": {"level": _LEVELS[severity]},
        "properties": {"tags": ["configuration"]},
    }


def _result(problem: Problem, rules: Mapping[str, int], base: str) -> dict[str, Any]:
    found: dict[str, Any] = {"ruleId": problem.check}
    if problem.check in rules:
        found["ruleIndex"] = rules[problem.check]
    message = f"{problem.text}. Fix: {problem.fix}" if problem.fix else problem.text
    found["level"] = _LEVELS[problem.severity]
    found["message"] = {"text": message}
    found["locations"] = [{"physicalLocation": _location(problem, base)}]
    found["partialFingerprints"] = {"agentdProblem/v1": _fingerprint(problem)}
    return found


def _location(problem: Problem, base: str) -> dict[str, Any]:
    """A whole file is its first line: a place without a region is not shown."""
    place = problem.place
    file = place.file if not base or place.file.startswith("/") else f"{base.rstrip('/')}/{place.file}"
    uri = f"file://{quote(file)}" if file.startswith("/") else quote(file)
    return {
        "artifactLocation": {"uri": uri},
        "region": {"startLine": max(1, place.line), "startColumn": max(1, place.column)},
    }


def _fingerprint(problem: Problem) -> str:
    """The same while the statement is, also when lines above it come or go."""
    said = "\0".join((problem.check, problem.place.file, problem.value, problem.text))
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:32]
