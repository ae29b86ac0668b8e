"""The source files as they lie in their directory. Blocks; call it in a thread."""

from __future__ import annotations

import os
from pathlib import Path

from agentd.adapters import fileset
from agentd.core.gateway.model import SOURCES
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.tree import Node, Place
from agentd.core.gateway.yaml_text import LARGEST, YamlProblem, parse
from agentd.errors import AgentdError
from agentd.findings import Severity
from agentd.ports_gateway import SourceSet

_INIT = "create the sources with: agentctl gateway init"


def read_sources(directory: Path) -> SourceSet:
    """Never raises for what lies there: everything wrong is one of the problems."""
    texts: dict[str, str] = {}
    trees: dict[str, Node] = {}
    problems: list[Problem] = []
    for name in SOURCES:
        text, problem = _text(directory, name)
        if text is not None:
            texts[name] = text
            try:
                trees[name] = parse(text, name)
            except YamlProblem as error:
                problem = error.problem
        if problem is not None:
            problems.append(problem)
    return SourceSet(str(directory), texts, trees, tuple(problems))


def _text(directory: Path, name: str) -> tuple[str | None, Problem | None]:
    path = directory / name
    try:
        # A link is followed: people keep their configuration in a repository and link to it.
        text = fileset.read(Path(os.path.realpath(path)), LARGEST)
    except (AgentdError, ValueError) as error:
        return None, _problem(name, f"{error}", "make it a readable text file")
    if text is not None:
        return text, None
    if not directory.is_dir():
        state = "is no directory" if directory.exists() else "does not exist"
        return None, _problem(name, f"{name} is missing: {directory} {state}", _INIT)
    other = path.with_suffix(".yml")
    if other.exists():
        return None, _problem(name, f"{name} is missing in {directory}", f"rename {other.name} to {name}")
    return None, _problem(name, f"{name} is missing in {directory}", _INIT)


def _problem(name: str, text: str, fix: str) -> Problem:
    return Problem("missing-file", Severity.ERROR, Place(name), "", text, fix)
