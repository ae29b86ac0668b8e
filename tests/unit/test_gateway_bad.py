"""Every set of sources in bad_gateway/ gives exactly the problems written beside it, with place, severity and fix."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from unit.gateway_facts_file import STRONG, read_facts

from agentd.core.gateway.checks import CHECKS, check, ordered
from agentd.core.gateway.facts import Facts
from agentd.core.gateway.model import SOURCES
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.report import as_json, as_text
from agentd.core.gateway.report_sarif import as_sarif
from agentd.core.gateway.yaml_text import YamlProblem, parse

BAD = Path(__file__).parent / "bad_gateway"
BASE = BAD / "base"
SETS = sorted(path for path in BAD.iterdir() if path != BASE)


def problems_of(directory: Path) -> tuple[Problem, ...]:
    """As `agentctl gateway validate` finds them: what cannot be parsed, the shape, then the checks."""
    texts, trees, found = {}, {}, []
    missing = directory / "missing.txt"
    gone = missing.read_text().split() if missing.exists() else []
    for name in (name for name in SOURCES if name not in gone):
        own = directory / name
        texts[name] = (own if own.exists() else BASE / name).read_text()
        try:
            trees[name] = parse(texts[name], name)
        except YamlProblem as error:
            found.append(error.problem)
    catalog, shape = read_catalog(trees, found)
    if catalog is None:
        return ordered(shape)
    digests = {name: sha256(text.encode()).hexdigest() for name, text in texts.items()}
    facts_file = directory / "facts.yaml"
    facts = read_facts(facts_file.read_text(), digests) if facts_file.exists() else Facts()
    catalog = type(catalog)(catalog.providers, catalog.ports, catalog.models, catalog.policy, digests)
    return ordered((*shape, *check(catalog, facts, shape)))


def said(problem: Problem) -> str:
    value = f" ({problem.value})" if problem.value else ""
    return f"{problem.check} {problem.place} {problem.severity}{value} {problem.text} | {problem.fix}"


def test_there_are_enough_of_them() -> None:
    assert len(SETS) >= 60
    found = {line.split()[0] for path in SETS for line in (path / "expected.txt").read_text().splitlines()}
    assert {item.id for item in CHECKS} <= found


def test_the_base_has_no_problem() -> None:
    assert problems_of(BASE) == ()


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.name)
def test_bad_set(path: Path) -> None:
    problems = problems_of(path)
    assert [said(problem) for problem in problems] == (path / "expected.txt").read_text().splitlines()
    everything = as_text(problems) + as_json(problems) + as_sarif(problems, "1.0") + repr(problems)
    secrets = [*STRONG.values(), "hunter2", "sk-1234", "sk-proj-aB3dE5fG7hI9jK1l", "correct-horse"]
    assert [secret for secret in secrets if secret in everything] == []
