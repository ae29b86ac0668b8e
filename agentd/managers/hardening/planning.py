"""What an installation would do: the declared security and resources drop-ins against those in the unit directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentd.core import dropin
from agentd.core.adopted import takeable
from agentd.core.dropin import DropIn, Purpose
from agentd.core.unitdiff import Action, PlannedFile, Rival, render, rivals
from agentd.errors import AgentdError
from agentd.managers.hardening.history import Texts
from agentd.managers.hardening.loading import Loading
from agentd.ports import Files

PURPOSES = (Purpose.SECURITY, Purpose.RESOURCES)
NAMES = tuple(f"{dropin.NUMBER}-agentd-{purpose.value}.conf" for purpose in PURPOSES)
UNREADABLE = "\0"
"""Stands for what is no text of ours (a link, other bytes, a directory): never equal to anything, never written."""


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """`files`: all that is not as declared. `unloaded`: files that are as declared, and that systemd does not have."""

    files: tuple[PlannedFile, ...] = ()
    rivals: tuple[Rival, ...] = ()
    unloaded: tuple[str, ...] = ()

    @property
    def before(self) -> Texts:
        return {file.path: file.old for file in self.files if file.action is not Action.KEPT}

    @property
    def after(self) -> Texts:
        return {file.path: file.new for file in self.files if file.action is not Action.KEPT}

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files if file.action is Action.KEPT)

    @property
    def empty(self) -> bool:
        return not self.after and not self.unloaded

    def __str__(self) -> str:
        notes: list[object] = [*self.rivals]
        notes += [f"{path} is not loaded yet: a daemon-reload is missing" for path in self.unloaded]
        return render(self.files, notes)


class Planner:
    def __init__(self, files: Files, loading: Loading) -> None:
        self._files = files
        self._loading = loading
        self._dir = loading.unit_dir

    async def plan(self, desired: Iterable[DropIn], *, units: Sequence[str] | None, force: bool) -> InstallPlan:
        declared = [d for d in desired if d.purpose in PURPOSES and (not units or d.unit in units)]
        existing = await self._existing(declared, units)
        found = dropin.plan(declared, existing, force=force)
        new = {d.path: d.text for d in declared}
        files = [self._file(path, existing.get(path), text) for path, text in found.writes.items()]
        files += [self._kept(path, existing.get(path), new.get(path)) for path in found.kept]
        same = [f"{self._dir}/{path}" for path, text in new.items() if existing.get(path) == text]
        ordered = sorted(files, key=lambda file: (file.unit, file.path))
        return InstallPlan(tuple(ordered), await self._rivals(declared), await self._loading.unloaded(same))

    async def text(self, path: str) -> str | None:
        try:
            return await self._files.read(path)
        except AgentdError:
            return UNREADABLE

    async def adoptable(self, unit: str) -> tuple[str, ...]:
        """Edited drop-ins of ours, and those of others with directives that hardening is about."""
        found = []
        for path in await self._files.find(self._dir, f"{unit}.d/*.conf"):
            text = await self.text(path)
            if text is None or text == UNREADABLE or not takeable(text):
                continue
            if not dropin.is_ours(text) or (path.endswith(NAMES) and dropin.edited(text)):
                found.append(path)
        return tuple(found)

    async def _existing(self, declared: Iterable[DropIn], units: Sequence[str] | None) -> dict[str, str | None]:
        """Texts of every file that has, or would have, one of our names; paths relative to the unit directory."""
        found = await self._files.find(self._dir, f"*.d/{dropin.NUMBER}-agentd-*.conf")
        paths = {path.removeprefix(self._dir + "/") for path in found if path.endswith(NAMES)}
        if units:
            paths = {path for path in paths if path.partition(".d/")[0] in units}
        paths |= {d.path for d in declared}
        return {path: await self.text(f"{self._dir}/{path}") for path in sorted(paths)}

    def _file(self, path: str, old: str | None, new: str | None) -> PlannedFile:
        unit = path.partition(".d/")[0]
        action = Action.NEW if old is None else Action.REMOVED if new is None else Action.CHANGED
        file = PlannedFile(unit, f"{self._dir}/{path}", action, old, new)
        note = ""
        if action is Action.CHANGED and old is not None and dropin.edited(old):
            note = "edited by hand; the edit is replaced, and kept in the history"
        elif action is Action.CHANGED and not file.changes:
            note = "only comments differ"
        elif action is Action.REMOVED:
            note = "not wanted any more"
        return PlannedFile(unit, file.path, action, old, new, note)

    def _kept(self, path: str, old: str | None, new: str | None) -> PlannedFile:
        unit = path.partition(".d/")[0]
        if old == UNREADABLE:
            note, old = "somebody put a link or something else there; it is kept", None
        elif old is not None and dropin.is_ours(old):
            note = f"edited by hand and kept; take the edit over with: agentctl dropins adopt {unit}"
        else:
            note = "written by somebody else, kept"
        return PlannedFile(unit, f"{self._dir}/{path}", Action.KEPT, old, new, note)

    async def _rivals(self, declared: Sequence[DropIn]) -> tuple[Rival, ...]:
        """Drop-ins of others in the unit directory that set what ours set."""
        found: list[Rival] = []
        for unit in dict.fromkeys(d.unit for d in declared):
            ours = {f"{self._dir}/{d.path}": d.text for d in declared if d.unit == unit}
            found += rivals(unit, ours, await self._others(unit))
        return tuple(found)

    async def _others(self, unit: str) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for path in await self._files.find(self._dir, f"{unit}.d/*.conf"):
            text = await self.text(path)
            if text and text != UNREADABLE and not path.endswith(NAMES) and not dropin.is_ours(text):
                found[path] = text
        return found
