"""What the gateway's commands do on files alone, without a daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import agentd
from agentd.adapters.gateway_facts import LocalGatewayFacts
from agentd.adapters.gateway_files import LocalGatewayFiles
from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.litellm_install import find_install
from agentd.adapters.offline_systemd import environment_files
from agentd.core.gateway import report as reports
from agentd.core.gateway.facts import Facts
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import GATEWAY_PORT, Catalog
from agentd.core.gateway.problems import Problem, errors
from agentd.core.gateway.read import read_catalog
from agentd.core.gateway.report_sarif import as_sarif
from agentd.core.schema import Settings
from agentd.managers.gateway.generation import Generation, Plan, Rollback
from agentd.ports_gateway import GatewayFiles, SourceSet, Version
from agentd.types import Scope

DEFAULT_PORT = 4001


@dataclass(frozen=True, slots=True)
class Read:
    """The sources as they are; `catalog` None: one is missing or is no YAML."""

    settings: Settings
    files: LocalGatewayFiles
    sources: SourceSet
    catalog: Catalog | None
    problems: tuple[Problem, ...]
    tried: GatewayFiles | None = None
    """Stands in for the files: sources that are not written yet."""

    @property
    def directory(self) -> str:
        return self.sources.directory


def files_of(settings: Settings, directory: str = "", config: str = "") -> LocalGatewayFiles:
    """`directory` and `config` replace the configured places of the sources and of the generated file."""
    policy = settings.gateway
    changed = {"sources": os.path.abspath(directory)} if directory else {}  # noqa: PTH100  (no link is resolved)
    changed |= {"config": os.path.abspath(config)} if config else {}  # noqa: PTH100
    return LocalGatewayFiles(_with(policy, **changed))


def read(settings: Settings, directory: str = "") -> Read:
    """Raises AgentdError for what cannot be read at all."""
    files = files_of(settings, directory)
    sources = asyncio.run(files.sources())
    catalog, problems = read_catalog(sources.trees, sources.problems)
    return Read(settings, files, sources, catalog, problems)


def beside(found: Read, path: str) -> Read:
    """The same sources for a generated file elsewhere."""
    return replace(found, files=files_of(found.settings, found.directory, path))


def path_of(found: Read) -> str:
    """Of the generated file."""
    return str(found.files.path)


def plan(found: Read, *, network: bool) -> Plan:
    """What the sources give. Raises AgentdError."""
    return asyncio.run(_generation(found, network=network).plan())


def validate(found: Read, *, network: bool) -> tuple[Problem, ...]:
    return plan(found, network=network).problems


def write(found: Read, planned: Plan) -> Version | None:
    """Raises AgentdError; then the file is as it was."""

    async def written() -> Version | None:
        return await _generation(found, network=False).write(planned)

    return asyncio.run(written())


def rollback(settings: Settings, version: str) -> Rollback:
    """The version beside the file of now; nothing is written. Raises AgentdError("version-not-found")."""
    return asyncio.run(Generation(files_of(settings), lambda: _install(settings)).rollback(version))


def restore(settings: Settings, found: Rollback) -> Version | None:
    return asyncio.run(Generation(files_of(settings), lambda: _install(settings)).restore(found))


def versions(settings: Settings) -> Sequence[Version]:
    """Newest first."""
    return asyncio.run(files_of(settings).versions())


def report(problems: Sequence[Problem], kind: str) -> str:
    """`kind`: "text", "json" or "sarif"."""
    if kind == "sarif":
        return as_sarif(problems, agentd.__version__)
    return reports.as_json(problems) if kind == "json" else reports.as_text(problems)


def records(problems: Sequence[Problem]) -> list[dict[str, object]]:
    return reports.as_records(problems)


def error_count(problems: Sequence[Problem]) -> int:
    return len(errors(tuple(problems)))


def exit_code(problems: Sequence[Problem], *, strict: bool) -> int:
    return reports.exit_code(problems, strict=strict)


def gateway_url(settings: Settings, catalog: Catalog | None) -> str:
    """Of the service with the role gateway; else by the port registry."""
    service = next((s for s in settings.services.values() if s.role == "gateway" and s.url), None)
    if service is not None:
        parts = urlsplit(service.url)
        return f"{parts.scheme}://{parts.netloc}"
    port = catalog.port(GATEWAY_PORT) if catalog is not None else None
    return f"http://{port.host}:{port.number}" if port is not None else f"http://127.0.0.1:{DEFAULT_PORT}"


def _generation(found: Read, *, network: bool) -> Generation:
    settings, files = found.settings, found.tried or found.files
    scope = Scope(settings.daemon.scope)
    unit_files = partial(environment_files, scope) if network else None  # systemd is asked, which CI has none of
    facts = LocalGatewayFacts(settings, files, LinuxKernel(), lambda: _install(settings), unit_files=unit_files)

    async def collected(catalog: Catalog) -> Facts:
        return await facts.collect(catalog, with_network=network)

    return Generation(files, lambda: _install(settings), lambda: _services(settings), collected)


def _services(settings: Settings) -> Mapping[str, tuple[str, str]]:
    return {n: (s.url, s.model.slot if s.model is not None else "") for n, s in settings.services.items()}


Struct = TypeVar("Struct", bound=Any)


def _with(struct: Struct, **changed: object) -> Struct:
    """A copy with these fields."""
    fields = {name: getattr(struct, name) for name in struct.__struct_fields__}
    copy: Struct = type(struct)(**(fields | changed))
    return copy


def _install(settings: Settings) -> Install:
    """Of the configured program, else that of PATH. Raises AgentdError."""
    return find_install(settings.gateway.executable)
