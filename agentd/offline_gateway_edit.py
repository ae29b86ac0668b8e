"""Single places of the gateway's sources changed by a command. Comments stay, and nothing gets worse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from agentd.adapters.gateway_files import LocalGatewayFiles
from agentd.core.gateway import edit
from agentd.core.gateway.model import MODELS, PORTS, PROVIDERS
from agentd.core.gateway.problems import Problem, errors
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.tree import Node
from agentd.core.gateway.yaml_text import YamlProblem, parse
from agentd.errors import AgentdError
from agentd.managers.gateway.generation import OF_THE_FILE
from agentd.offline_gateway import Read, plan, read
from agentd.ports_gateway import SourceSet

TRIES = 20
"""Each time somebody else changes the same file meanwhile, the edit is made anew on what is there then."""


@dataclass(frozen=True, slots=True)
class Edited:
    """`changed` False: it was so already."""

    file: str
    changed: bool
    problems: tuple[Problem, ...]
    """What is new with it, warnings and less: with an error nothing is written."""


class _Overtaken(Exception):
    """The file is another one than the edit was made for."""


def set_status(found: Read, what: str, name: str, status: str) -> Edited:
    """`what`: "provider" or "model". Raises AgentdError."""
    file, section = (PROVIDERS, "providers") if what == "provider" else (MODELS, "models")

    def made(now: Read) -> Edited:
        text, _ = _of(now, file)
        return _changed(now, file, text, edit.set_status(text, file, section, name, status))

    return _undisturbed(found, made)


def set_value(found: Read, path: str, value: str) -> Edited:
    """`path`: with dots, beginning with providers, ports, models or policy. `value`: as YAML. Raises AgentdError."""
    try:
        wanted = parse(value, "VALUE").plain()
    except YamlProblem as error:
        problem = error.problem  # The value itself is not repeated: it may be a key.
        raise AgentdError("bad-request", f"cannot set {path}: {problem.text}", hint=problem.fix) from None
    return _undisturbed(found, lambda now: _set_value(now, path, wanted))


def _undisturbed(found: Read, made: Callable[[Read], Edited]) -> Edited:
    for _ in range(TRIES):
        try:
            return made(found)
        except _Overtaken:
            found = read(found.settings, found.directory)
    raise AgentdError("file-busy", f"cannot change {found.directory}: others change it again and again")


def _set_value(found: Read, path: str, wanted: object) -> Edited:
    keys = _keys(found, path)
    file = {"providers": PROVIDERS, "ports": PORTS}.get(keys[0], MODELS)
    if keys[0] not in ("providers", "ports", "models", "policy") or len(keys) < 2:
        message = f'cannot set "{path}": a path begins with providers., ports., models. or policy.'
        raise AgentdError("bad-request", message, hint="for instance: agentctl gateway set policy.retries 3")
    text, tree = _of(found, file)
    entry = tree.get("ports") if file == PORTS and len(keys) == 2 and isinstance(wanted, int) else None
    if entry is not None and (port := entry.get(keys[1])) is not None and port.kind == "mapping":
        keys = (*keys, "port")  # A number is the short form of an entry; its unit and host stay.
    keys, wanted = _with_parents(tree, keys, wanted)
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
    """Written when the sources are no worse with it. Raises AgentdError("gateway-invalid"), _Overtaken."""
    if new == old:
        return Edited(file, False, ())
    trees = {**found.sources.trees, file: parse(new, file)}
    sources = replace(found.sources, trees=trees, texts={**found.sources.texts, file: new})
    catalog, problems = read_catalog(trees, found.sources.problems)
    tried = replace(found, sources=sources, catalog=catalog, problems=problems, tried=_Tried(found.files, sources))
    before = {_said(problem) for problem in plan(found, network=False).problems}
    after = plan(tried, network=False).problems
    news = [problem for problem in after if _said(problem) not in before]
    shape = {_said(problem) for problem in problems}
    # What a wrong value leads to is said after the value itself.
    worse = sorted(errors(tuple(news)), key=lambda problem: _said(problem) not in shape)
    if worse:
        first = worse[0]
        more = f" (and {len(worse) - 1} more)" if len(worse) > 1 else ""
        raise AgentdError(
            "gateway-invalid", f"cannot change {file}: {first.text} ({first.place}){more}", hint=first.fix
        )
    asyncio.run(_write(found.files, file, old, new))
    return Edited(file, True, tuple(problem for problem in news if problem.check not in OF_THE_FILE))


async def _write(files: LocalGatewayFiles, file: str, old: str, new: str) -> None:
    """Raises _Overtaken."""
    async with files.exclusive():
        if (await files.sources()).texts.get(file) != old:
            raise _Overtaken
        await files.write_sources({file: new})


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
