"""Unit files in a dict, with systemd's order of drop-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from agentd.adapters.unit_files import stems_of
from agentd.evidence import UnitFile


class FakeUnitFiles:
    """The UnitFiles port. `texts` by path; a path in `links` is a link to there, one in `unreadable` cannot be read."""

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        self.texts: dict[str, str] = dict(texts or {})
        self.links: dict[str, str] = {}
        self.unreadable: set[str] = set()
        self.mtimes: dict[str, float] = {}

    async def read_all(self, paths: Sequence[str]) -> tuple[UnitFile, ...]:
        await asyncio.sleep(0)
        return tuple(self._file(path) for path in paths)

    async def dropins_of(self, unit: str, unit_dirs: Sequence[str]) -> tuple[UnitFile, ...]:
        await asyncio.sleep(0)
        stems, kind = tuple(stems_of(unit)), unit.rpartition(".")[2]
        special = [f"{base}/{stem}.d" for base in unit_dirs for stem in stems]
        chosen: dict[str, str] = {}
        for directory in (*special, *(f"{base}/{kind}.d" for base in unit_dirs)):
            for path in sorted({*self.texts, *self.links}):
                folder, _, name = path.rpartition("/")
                if folder == directory and name.endswith(".conf") and not name.startswith("."):
                    chosen.setdefault(name, path)
        return tuple(self._file(chosen[name]) for name in sorted(chosen, key=str.encode))

    def _file(self, path: str) -> UnitFile:
        link = self.links.get(path, "")
        text = "" if link == "/dev/null" else self.texts.get(link or path)
        if path in self.unreadable:
            text = None
        there = bool(link) or path in self.texts
        return UnitFile(path, text, link, self.mtimes.get(path, 1e9) if there else 0.0)
