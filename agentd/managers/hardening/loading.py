"""Whether systemd has taken in exactly what was written, right after the daemon-reload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.quantities import QuantityError, parse_bytes
from agentd.core.unitfile import Directive, is_list, parse
from agentd.errors import AgentdError
from agentd.managers.hardening.history import Texts
from agentd.ports import Files, UnitControl
from agentd.ports_hardening import UnitQuery
from agentd.types import UnitState

Check = Callable[[str], Awaitable[Sequence[str]]]
"""unit -> problems, one sentence each."""

_WORDS: Mapping[str, bool] = {
    **dict.fromkeys(("yes", "true", "on", "1"), True),
    **dict.fromkeys(("no", "false", "off", "0"), False),
}
_SIZES = ("MemoryMax", "MemoryHigh", "MemoryLow", "MemoryMin", "MemorySwapMax")
_LARGEST_PAGE = 65536
_NUMBERS = ("TasksMax", "CPUWeight", "IOWeight", "Nice", "OOMScoreAdjust")
_TEXTS = ("ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset", "KeyringMode", "DevicePolicy")


@dataclass(frozen=True, slots=True)
class Loading:
    control: UnitControl
    files: Files
    unit_dir: str
    query: UnitQuery | None = None
    check: Check | None = None

    def unit_of(self, path: str) -> str:
        """The unit of a drop-in below the unit directory; "" for another file."""
        folder = path.removeprefix(self.unit_dir + "/").partition("/")[0]
        return folder.removesuffix(".d") if path.startswith(self.unit_dir + "/") and folder.endswith(".d") else ""

    def units_of(self, paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted({unit for path in paths if (unit := self.unit_of(path))}))

    async def unloaded(self, present: Iterable[str]) -> tuple[str, ...]:
        """Of these files that exist, those that systemd does not have."""
        paths = [*present]
        states = {unit: await self.control.show(unit) for unit in self.units_of(paths)}
        return tuple(path for path in paths if not _has(states[self.unit_of(path)], path))

    async def problems(self, after: Texts) -> list[str]:
        """One sentence each; [] when every unit has its new files, not the removed ones, and their values."""
        found: list[str] = []
        for unit in self.units_of(after):
            state = await self.control.show(unit)
            own = {path: text for path, text in after.items() if self.unit_of(path) == unit}
            found += _loaded(state, own)
            if state.load_state == "loaded" and not found:
                found += await self._values(state, own)
                found += await self.check(unit) if self.check is not None else ()
        return found

    async def _values(self, state: UnitState, own: Texts) -> list[str]:
        """Only what can be compared without doubt, and what no other file sets, too: a value that systemd refused."""
        if self.query is None:
            return []
        properties = await self.query.properties(state.name)
        alone = await self._alone(state, own)
        return [
            f"{state.name} has {d.key} {_shown(properties[d.key])} and not {d.value}, as {d.place} says"
            for d in alone
            if d.key in properties and _differs(d, properties[d.key])
        ]

    async def _alone(self, state: UnitState, own: Texts) -> list[Directive]:
        """The last directive of each name, where our files are the only ones that set it."""
        mine: dict[str, Directive] = {}
        for path, text in own.items():
            for directive in parse(text or "", path).directives:
                if directive.section == "Service" and not is_list(directive.key):
                    mine[directive.key] = directive
        for path in (state.fragment_path, *state.dropin_paths):
            if path and path not in own:
                for directive in parse(await self._text(path), path).directives:
                    mine.pop(directive.key, None)
        return list(mine.values())

    async def _text(self, path: str) -> str:
        try:
            return await self.files.read(path) or ""
        except AgentdError:
            return ""


def _has(state: UnitState, path: str) -> bool:
    """A unit that does not exist (yet) or is masked loads no drop-ins; that is no fault of theirs."""
    return state.load_state in ("not-found", "masked", "") or path in state.dropin_paths


def _loaded(state: UnitState, own: Texts) -> list[str]:
    if state.load_state in ("bad-setting", "error"):
        why = state.load_error.rstrip(".") or state.load_state
        return [f"{state.name} cannot be loaded any more: {why}"]
    found = [
        f"systemd does not load {path}" for path, text in own.items() if text is not None and not _has(state, path)
    ]
    found += [f"systemd still has {path}" for path, text in own.items() if text is None and path in state.dropin_paths]
    if not found and state.need_daemon_reload and state.load_state == "loaded":
        found.append(f"systemd still has an older version of the files of {state.name}")
    return found


def _differs(directive: Directive, value: object) -> bool:
    text = directive.value.lower()
    if isinstance(value, bool):
        return text in _WORDS and _WORDS[text] is not value
    if isinstance(value, int) and directive.key in _NUMBERS:
        return text.lstrip("-").isdecimal() and int(text) != value
    if isinstance(value, int) and directive.key in _SIZES:
        try:
            return abs(parse_bytes(directive.value) - value) >= _LARGEST_PAGE  # systemd rounds to whole pages
        except QuantityError:
            return False
    return isinstance(value, str) and directive.key in _TEXTS and text not in _WORDS and value != text


def _shown(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
