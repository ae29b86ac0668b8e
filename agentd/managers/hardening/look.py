"""What is declared on the disk, loaded by systemd and done by the kernel for one unit, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from agentd.evidence import HostEvidence, UnitEvidence, UnitFile, UnitView
from agentd.ports import UnitControl
from agentd.ports_hardening import Inspector, UnitFiles, UnitQuery
from agentd.types import Scope

_LOADED = ("UnitsLoadTimestamp", "UnitsLoadStartTimestamp")
"""Of the last daemon-reload, and of the start, before which no reload was. When reading began: what was written later
may have been missed."""


class Looker:
    """Reads, decides nothing. The host is read once, until `forget()`: after a reconnect, or at the user's wish."""

    def __init__(self, control: UnitControl, query: UnitQuery, inspector: Inspector, files: UnitFiles) -> None:
        self._control = control
        self._query = query
        self._inspector = inspector
        self._files = files
        self._hosts: dict[Scope, HostEvidence] = {}
        self._reading = asyncio.Lock()

    async def host(self, scope: Scope) -> HostEvidence:
        async with self._reading:
            if scope not in self._hosts:
                self._hosts[scope] = await self._inspector.host(scope, await self._query.manager())
            return self._hosts[scope]

    def forget(self) -> None:
        self._hosts.clear()

    async def view(self, unit: str, host: HostEvidence) -> UnitView:
        state, properties, manager = await asyncio.gather(
            self._control.show(unit), self._query.properties(unit), self._query.manager()
        )
        paths = [path for path in (state.fragment_path, *state.dropin_paths) if path]
        files, on_disk = await asyncio.gather(
            self._files.read_all(paths), self._on_disk(_names(unit, properties), host.unit_dirs)
        )
        started = _seconds(properties, "ExecMainStartTimestamp") if state.main_pid else 0.0
        loaded_at = max(_seconds(manager, name) for name in _LOADED)
        return UnitView(state, properties, files, on_disk, started, loaded_at)

    async def evidence(self, view: UnitView, paths: Sequence[str]) -> UnitEvidence | None:
        """None when no process of the unit is there to be looked at."""
        group = view.state.control_group
        if not group or not view.state.active_state.up:
            return None
        found = await self._inspector.unit(group, paths)
        return found if found.processes else None

    async def _on_disk(self, names: Sequence[str], unit_dirs: Sequence[str]) -> tuple[UnitFile, ...]:
        """For a unit with aliases their drop-ins count too: after the unit's own, before those of the whole type."""
        lists = await asyncio.gather(*(self._files.dropins_of(name, unit_dirs) for name in names))
        kind = names[0].rpartition(".")[2] + ".d"
        found = [file for files in lists for file in files]
        found.sort(key=lambda file: file.path.split("/")[-2] == kind)  # stable
        chosen: dict[str, UnitFile] = {}
        for file in found:
            chosen.setdefault(file.path.rpartition("/")[2], file)
        return tuple(chosen[name] for name in sorted(chosen))


def _names(unit: str, properties: Mapping[str, object]) -> list[str]:
    """The unit's real name first, whatever alias was asked for."""
    names = properties.get("Names")
    aliases = sorted(str(name) for name in names) if isinstance(names, list | tuple) else []
    return list(dict.fromkeys([str(properties.get("Id") or unit), *aliases]))


def _seconds(properties: Mapping[str, object], name: str) -> float:
    """systemd's microseconds; 0 for "never", which it may also write as the largest number."""
    value = properties.get(name)
    return value / 1e6 if isinstance(value, int) and value < 1 << 63 else 0.0
