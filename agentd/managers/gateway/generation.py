"""From the sources on the disk to the generated file, and back to an earlier one. Serves the daemon and the commands.

Reading, checking and rendering large sources takes a good part of a second of the processor, so all of it is done in a
thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from agentd.core.gateway.checks import check, ordered
from agentd.core.gateway.delta import Delta, delta
from agentd.core.gateway.document import render
from agentd.core.gateway.facts import Facts
from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.header import digest_of, edited, parse_header
from agentd.core.gateway.install import NOT_INSTALLED, Install
from agentd.core.gateway.model import Catalog
from agentd.core.gateway.problems import Problem, errors
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.slots import slot_models
from agentd.core.gateway.tree import Node
from agentd.core.gateway.yaml_text import YamlProblem, parse
from agentd.errors import AgentdError
from agentd.ports_gateway import GatewayFiles, SourceSet, Version

OF_THE_FILE = ("stale-file", "edited-by-hand")
"""Checks of the file that a generation replaces: they do not keep it from that."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the sources give now, beside what the file holds."""

    rendered: Rendered | None
    """None while the sources are refused."""
    problems: tuple[Problem, ...]
    current: str | None
    """The text of the generated file; None when there is none."""
    delta: str = ""
    """Unified diff of the two, without their headers."""
    words: tuple[str, ...] = ()
    """The same, one change each."""
    install: Install = NOT_INSTALLED
    catalog: Catalog | None = None
    """None when a source is missing or is no YAML."""

    @property
    def up_to_date(self) -> bool:
        """The file is byte for byte what would be written."""
        return self.rendered is not None and self.current == self.rendered.text

    @property
    def same_config(self) -> bool:
        """LiteLLM would read the same: at most the header differs, after a change of a comment for instance."""
        header = parse_header(self.current or "")
        return self.rendered is not None and header is not None and digest_of(header.body) == self.rendered.digest

    @property
    def edited(self) -> bool:
        """The generated file was changed by hand."""
        return edited(self.current or "")


@dataclass(frozen=True, slots=True)
class Rollback:
    """An earlier file, beside the one of now."""

    version: Version
    text: str
    current: str | None
    delta: str
    words: tuple[str, ...]

    @property
    def up_to_date(self) -> bool:
        return self.current == self.text

    @property
    def edited(self) -> bool:
        return edited(self.current or "")


class Generation:
    """`install` finds LiteLLM and may raise AgentdError: then the file is made for one that is not known. `services`:
    agentd's service -> (its url, its slot). `facts`: what the checks may know beyond the sources and LiteLLM."""

    def __init__(
        self,
        files: GatewayFiles,
        install: Callable[[], Install],
        services: Callable[[], Mapping[str, tuple[str, str]]] = dict,
        facts: Callable[[Catalog], Awaitable[Facts]] | None = None,
    ) -> None:
        self._files = files
        self._install = install
        self._services = services
        self._facts = facts

    async def plan(self) -> Plan:
        """Nothing is written. Raises AgentdError when the files cannot be read."""
        sources, current = await asyncio.gather(self._files.sources(), self._files.generated())
        catalog, problems = await asyncio.to_thread(read_catalog, sources.trees, sources.problems)
        install = await asyncio.to_thread(self._found)
        if catalog is None:
            return Plan(None, problems, current, install=install)
        catalog = replace(catalog, files=_digests(sources))
        facts = await self._facts(catalog) if self._facts is not None else Facts()
        facts = replace(facts, install=install)
        return await asyncio.to_thread(self._planned, catalog, facts, problems, current)

    async def write(self, plan: Plan) -> Version | None:
        """The version that keeps the text of before; None when there was none or nothing changes. Raises AgentdError:
        "gateway-invalid" for refused sources, or that of a failed write."""
        if plan.rendered is None:
            count = len(errors(plan.problems))
            message = f"cannot generate: {count} error{'s' if count != 1 else ''} in the sources"
            raise AgentdError("gateway-invalid", message, hint="see them with: agentctl gateway validate")
        return None if plan.up_to_date else await self._files.write(plan.rendered.text)

    async def rollback(self, version: str = "") -> Rollback:
        """`version` "": the newest one that is not what the file holds. Nothing is written. Raises
        AgentdError("version-not-found")."""
        current = await self._files.generated()
        for found in await self._files.versions():
            if version in ("", found.id):
                text = await self._files.version_text(found.id)
                if version or text != current:
                    change = await asyncio.to_thread(_delta, current, text)
                    return Rollback(found, text, current, change.diff, change.words)
        if version:
            await self._files.version_text(version)  # says which ones there are
        raise AgentdError("version-not-found", "cannot roll back: no earlier version of the generated file is kept")

    async def restore(self, rollback: Rollback) -> Version | None:
        """As write()."""
        return None if rollback.up_to_date else await self._files.write(rollback.text)

    def _found(self) -> Install:
        try:
            return self._install()
        except AgentdError:
            return NOT_INSTALLED  # a check says so

    def _planned(self, catalog: Catalog, facts: Facts, problems: tuple[Problem, ...], current: str | None) -> Plan:
        install = facts.install or NOT_INSTALLED
        problems = ordered((*problems, *check(catalog, facts)))
        if any(problem.check not in OF_THE_FILE for problem in errors(problems)):
            return Plan(None, problems, current, install=install, catalog=catalog)
        rendered = render(catalog, install, slot_models(catalog, self._services()), catalog.files)
        change = _delta(current, rendered.text)
        return Plan(rendered, problems, current, change.diff, change.words, install, catalog)


def _digests(sources: SourceSet) -> Mapping[str, str]:
    return {name: sha256(text.encode()).hexdigest() for name, text in sources.texts.items()}


def _delta(old: str | None, new: str) -> Delta:
    if old == new:
        return Delta("", ())
    return delta(old, new, old_tree=_tree(old), new_tree=_tree(new))


def _tree(text: str | None) -> Node | None:
    """None for what is no YAML: a file edited by hand may be anything."""
    try:
        return parse(text, "") if text else None
    except YamlProblem:
        return None
