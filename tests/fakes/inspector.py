"""What the kernel would say of units and the host, as given."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from agentd.errors import AgentdError
from agentd.evidence import HostEvidence, PathEvidence, UnitEvidence
from agentd.types import Scope


class FakeInspector:
    """The Inspector port. `units` by control group; a path that nothing was said about does not exist."""

    def __init__(self, host: HostEvidence | None = None) -> None:
        self.units: dict[str, UnitEvidence] = {}
        self.evidence_of_host = host or HostEvidence()
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        """(control group, paths) of every inspection of a unit."""
        self.hosts_read = 0
        self.fails: AgentdError | None = None

    async def unit(self, control_group: str, paths: Sequence[str]) -> UnitEvidence:
        await asyncio.sleep(0)
        self.asked.append((control_group, tuple(paths)))
        if self.fails is not None:
            raise self.fails
        known = self.units.get(control_group) or UnitEvidence(control_group)
        processes = tuple(dataclasses.replace(p, paths=_asked(paths, p.paths)) for p in known.processes)
        return dataclasses.replace(known, processes=processes, own_paths=_asked(paths, known.own_paths))

    async def host(self, scope: Scope, manager: Mapping[str, object]) -> HostEvidence:
        await asyncio.sleep(0)
        self.hosts_read += 1
        if self.fails is not None:
            raise self.fails
        dirs = manager.get("UnitPath")
        unit_dirs = tuple(map(str, dirs)) if isinstance(dirs, list | tuple) else self.evidence_of_host.unit_dirs
        return dataclasses.replace(self.evidence_of_host, scope=scope, unit_dirs=unit_dirs)


def _asked(paths: Sequence[str], known: Mapping[str, PathEvidence]) -> dict[str, PathEvidence]:
    return {path: known.get(path, PathEvidence(exists=False)) for path in paths}
