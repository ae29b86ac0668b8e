"""The three sources as one catalog: their shape is checked here, what they refer to is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentd.core.gateway.model import MODELS, PORTS, PROVIDERS, SOURCES, Catalog
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.read_base import Problems, entries, meant
from agentd.core.gateway.read_models import read_models
from agentd.core.gateway.read_policy import read_policy
from agentd.core.gateway.read_providers import read_ports, read_providers
from agentd.core.gateway.secret_words import shown
from agentd.core.gateway.tree import Node, Place

SECTIONS: Mapping[str, tuple[str, ...]] = {
    PROVIDERS: ("providers",),
    PORTS: ("ports",),
    MODELS: ("models", "policy"),
}
"""File -> its top-level keys; only `policy` may be missing."""


def read_catalog(
    trees: Mapping[str, Node], problems: Sequence[Problem] = ()
) -> tuple[Catalog | None, tuple[Problem, ...]]:
    """The catalog with everything that could be read, and all that is wrong in all files, in the order of the files and
    their lines. `trees`: file name -> tree. `problems`: what is known of the files already (a SourceSet's); they are
    part of the answer, and a file that they name is not reported as missing. None only when a tree is missing.
    """
    found = Problems()
    found.found.extend(problems)
    _missing(found, trees)
    tops = {name: _top(found, name, trees[name]) for name in SOURCES if name in trees}
    ports = read_ports(found, tops.get(PORTS, {}).get("ports", _NOTHING))
    providers = read_providers(found, tops.get(PROVIDERS, {}).get("providers", _NOTHING), ports)
    mappings = tops.get(MODELS, {})
    models = read_models(found, mappings.get("models", _NOTHING))
    policy = read_policy(found, mappings.get("policy", _NOTHING))
    whole = len(tops) == len(SOURCES)
    catalog = Catalog(providers, ports, models, policy) if whole else None
    return catalog, tuple(sorted(found.found, key=_order))


_NOTHING = Node((), "mapping", Place(""))


def _missing(found: Problems, trees: Mapping[str, Node]) -> None:
    told = {problem.place.file for problem in found.found}
    for name in SOURCES:
        if name not in trees and not any(file == name or file.endswith("/" + name) for file in told):
            found.say("missing-file", Place(name), "", f"{name} is missing", "create it with: agentctl gateway init")


def _top(found: Problems, file: str, tree: Node) -> dict[str, Node]:
    """The sections of a file. A section that belongs to another one is told so."""
    known = SECTIONS[file]
    if tree.kind != "mapping" and tree.value is None:
        found.say("missing-key", Place(tree.place.file), "", "the file is empty", f"begin it with {known[0]}:")
        return {}
    sections: dict[str, Node] = {}
    for name, key, value in entries(found, tree, file):
        if name in known:
            sections[name] = value
            continue
        home = next((other for other, theirs in SECTIONS.items() if name in theirs), "")
        fix = f"move it to {home}" if home else f"{meant(name, known)}allowed: {', '.join(known)}"
        found.say("unknown-key", key.place, shown(name), f"{file} has no such section", fix)
    if tree.kind == "mapping" and known[0] not in sections:
        found.say("missing-key", tree.place, "", f"{file} has no {known[0]}", f"add {known[0]}:")
    return sections


def _order(problem: Problem) -> tuple[int, str, int, int]:
    name = problem.place.file.rpartition("/")[2]
    number = SOURCES.index(name) if name in SOURCES else len(SOURCES)
    return number, problem.place.file, problem.place.line, problem.place.column
