"""Single places of the gateway's sources changed by a command. Comments stay, and nothing gets worse."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from agentd.adapters.gateway_files import LocalGatewayFiles
from agentd.core.gateway import edit
from agentd.core.gateway.model import MODELS, PORTS, PROVIDERS
from agentd.core.gateway.problems import Problem, errors
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.tree import Node
from agentd.core.gateway.yaml_text import parse
from agentd.errors import AgentdError
from agentd.offline_gateway import Read, plan
from agentd.ports_gateway import SourceSet


@dataclass(frozen=True, slots=True)
class Edited:
    """`changed` False: it was so already."""

    file: str
    changed: bool
    problems: tuple[Problem, ...]
    """Warnings and less: with an error nothing is written."""


def set_status(found: Read, what: str, name: str, status: str) -> Edited:
    """`what`: "provider" or "model". Raises AgentdError."""
    file, section = (PROVIDERS, "providers") if what == "provider" else (MODELS, "models")
    text, _ = _of(found, file)
    return _changed(found, file, text, edit.set_status(text, file, section, name, status))


def set_value(found: Read, path: str, value: str) -> Edited:
    """`path`: with dots, beginning with providers, ports, models or policy. `value`: as YAML. Raises AgentdError."""
    keys = _keys(found, path)
    file = {"providers": PROVIDERS, "ports": PORTS}.get(keys[0], MODELS)
    if keys[0] not in ("providers", "ports", "models", "policy") or len(keys) < 2:
        message = f'cannot set "{path}": a path begins with providers., ports., models. or policy.'
        raise AgentdError("bad-request", message, hint="for instance: agentctl gateway set policy.retries 3")
    text, tree = _of(found, file)
    keys, wanted = _with_parents(tree, keys, parse(value, "the value").plain())
    return _changed(found, file, text, edit.set_value(text, file, keys, wanted))


def _with_parents(tree: Node, keys: tuple[str, ...], value: object) -> tuple[tuple[str, ...], object]:
    """What is missing around the value is made with it: but no provider, port or model."""
    known: Node | None = tree
    depth = 0
    while depth < len(keys) - 1 and known is not None and (known := known.get(keys[depth])) is not None:
        depth += 1
    named = keys[0] != "policy"
    if named and depth < min(2, len(keys) - 1):
        return keys, value  # Which the edit refuses, with the names that there are.
    for key in reversed(keys[depth + 1 :]):
        value = {key: value}
    return keys[: depth + 1], value


def _changed(found: Read, file: str, old: str, new: str) -> Edited:
    """Written when the sources are no worse with it. Raises AgentdError("gateway-invalid")."""
    if new == old:
        return Edited(file, False, ())
    trees = {**found.sources.trees, file: parse(new, file)}
    sources = replace(found.sources, trees=trees, texts={**found.sources.texts, file: new})
    catalog, problems = read_catalog(trees, found.sources.problems)
    tried = replace(found, sources=sources, catalog=catalog, problems=problems, tried=_Tried(found.files, sources))
    before = {_said(problem) for problem in errors(plan(found, network=False).problems)}
    after = plan(tried, network=False).problems
    worse = [problem for problem in errors(after) if _said(problem) not in before]
    if worse:
        first = worse[0]
        more = f" (and {len(worse) - 1} more)" if len(worse) > 1 else ""
        raise AgentdError(
            "gateway-invalid", f"cannot change {file}: {first.text} ({first.place}){more}", hint=first.fix
        )
    asyncio.run(found.files.write_sources({file: new}))
    quiet = tuple(problem for problem in after if _said(problem) not in before)
    return Edited(file, True, quiet)


class _Tried:
    """The files as they would be with other sources; nothing is written through it."""

    def __init__(self, files: LocalGatewayFiles, sources: SourceSet) -> None:
        self._files = files
        self._sources = sources

    async def sources(self) -> SourceSet:
        return self._sources

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


def _said(problem: Problem) -> tuple[str, str]:
    """The same statement, wherever an edit moved it."""
    return problem.check, problem.text


def _keys(found: Read, path: str) -> tuple[str, ...]:
    """The parts of a dotted path. Names may hold dots themselves: the longest known one wins."""
    parts, keys = path.split("."), []
    node: Node | None = _root(found, parts[0])
    while parts:
        count = next((n for n in range(len(parts), 0, -1) if node and node.get(".".join(parts[:n]))), 1)
        key, parts = ".".join(parts[:count]), parts[count:]
        node = node.get(key) if node is not None else None
        keys.append(key)
    return tuple(keys)


def _root(found: Read, first: str) -> Node | None:
    return found.sources.trees.get({"providers": PROVIDERS, "ports": PORTS}.get(first, MODELS))


def _of(found: Read, file: str) -> tuple[str, Node]:
    """Raises AgentdError for one that is missing or no YAML."""
    tree = found.sources.trees.get(file)
    if tree is None:
        why = next((problem for problem in found.sources.problems if problem.place.file == file), None)
        text = why.text if why is not None else "it is missing"
        raise AgentdError("gateway-sources", f"cannot change {file}: {text}", hint=why.fix if why is not None else "")
    return found.sources.texts[file], tree
