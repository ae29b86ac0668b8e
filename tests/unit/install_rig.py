"""An Installer on fakes, with a systemd that loads drop-ins at a reload and lets services die under them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fakes import FakeFiles, FakeJournal, FakeStore, FakeUnits, FakeWorld

from agentd.core import dropin
from agentd.core.dropin import DropIn, Purpose
from agentd.core.unitfile import merge, parse
from agentd.engine.events import EventLog
from agentd.managers.hardening.history import SetStore
from agentd.managers.hardening.install import Installer
from agentd.managers.hardening.restart import Restart

DIR = "/home/user/.config/systemd/user"
STATE = "/home/user/.local/state/agentd/dropins"
CONFIG = "/home/user/.config/agentd/config.d"
A, B = "a.service", "b.service"


def security(unit: str, *lines: str) -> DropIn:
    return DropIn(unit, Purpose.SECURITY, "# about it\n[Service]\n" + "\n".join(lines) + "\n")


def resources(unit: str, *lines: str) -> DropIn:
    return DropIn(unit, Purpose.RESOURCES, "[Service]\n" + "\n".join(lines) + "\n")


def at(unit: str, purpose: Purpose = Purpose.SECURITY) -> str:
    return f"{DIR}/{dropin.path_of(unit, purpose)}"


class LoadingUnits(FakeUnits):
    """Units that load drop-ins at a reload, as systemd does, and die by what is `deadly` in them."""

    files: FakeFiles
    journal: FakeJournal
    deaf = False
    """True: it reloads, but takes nothing in."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.deadly: dict[str, tuple[int, str]] = {}
        """Line of a drop-in -> (exit status, journal line) of a program that is started under it."""
        self.loaded: dict[str, dict[str, str]] = {}
        self.last_words: dict[str, str] = {}
        self.on_death.append(self._say)

    def _say(self, unit: str) -> None:
        if self.last_words.get(unit):
            self.journal.say(unit, self.last_words[unit], invocation=self.state(unit).invocation_id)

    async def reload(self) -> None:
        await super().reload()
        if not self.deaf:
            self.load()

    def load(self) -> None:
        for name, unit in self.units.items():
            texts = {p: t for p, t in sorted(self.files.texts.items()) if p.startswith(f"{DIR}/{name}.d/")}
            self.loaded[name] = texts
            unit.state = dataclasses.replace(unit.state, dropin_paths=tuple(texts), need_daemon_reload=False)
            lines = [f"{d.key}={d.value}" for text in texts.values() for d in parse(text).directives]
            unit.behaviour.exit_on_start = next((self.deadly[line][0] for line in lines if line in self.deadly), None)
            self.last_words[name] = next((self.deadly[line][1] for line in lines if line in self.deadly), "")

    async def properties(self, unit: str) -> Mapping[str, object]:
        """What the loaded drop-ins say, as systemd would have it: only booleans are of interest here."""
        found: dict[str, object] = {"TimeoutStartUSec": 30_000_000, "TimeoutStopUSec": 30_000_000}
        for (_, key), setting in merge(list(self.loaded.get(unit, {}).items())).items():
            found[key] = setting.text == "yes" if setting.text in ("yes", "no") else setting.text
        return found

    async def manager(self) -> Mapping[str, object]:
        return {}

    async def start_transient(self, unit: str, properties: Sequence[object]) -> object:
        raise NotImplementedError


@dataclass
class Rig:
    installer: Installer
    units: LoadingUnits
    files: FakeFiles
    state: FakeFiles
    events: EventLog
    world: FakeWorld
    problems: dict[str, list[str]] = field(default_factory=dict)
    progress: list[tuple[str, str]] = field(default_factory=list)

    @property
    def reloads(self) -> int:
        return self.units.calls.count(("reload", ""))

    @property
    def restarts(self) -> list[str]:
        return [unit for verb, unit in self.units.calls if verb in ("restart", "start")]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.recent(100)]

    def stored(self) -> dict[str, dict[str, object]]:
        return {path.rpartition("/")[2]: json.loads(text) for path, text in self.state.texts.items()}

    async def install(self, *desired: DropIn, restart: bool = False) -> None:
        plan = await self.installer.plan(desired)
        await self.installer.apply(plan, restart=restart)

    def note(self, unit: str, text: str) -> None:
        self.progress.append((unit, text))


def rig(*, running: Sequence[str] = (A, B), old: Rig | None = None, restart: Restart | None = None) -> Rig:
    """`old`: what another process left behind, on the disk and in systemd."""
    if old is not None:
        world, units, files, state = old.world, old.units, old.files, old.state
    else:
        world = FakeWorld()
        units, files, state = LoadingUnits(world.kernel, clock=world.clock.time), FakeFiles(), FakeFiles()
        units.files, units.journal = files, world.journal
        for unit in (A, B):
            units.add(unit, active=unit in running)
    events = EventLog(FakeStore(), world.clock)
    problems: dict[str, list[str]] = {}

    async def check(unit: str) -> Sequence[str]:
        return problems.get(unit, [])

    installer = Installer(
        units, files, SetStore(state, STATE), events, world.clock,
        unit_dir=DIR, journal=world.journal, kernel=world.kernel, query=units, check=check, restart=restart,  # type: ignore[arg-type]
    )  # fmt: skip
    return Rig(installer, units, files, state, events, world, problems)


class Killed(BaseException):
    """Nothing after it is done."""


class Steps:
    """Counts what is done to the world, and ends everything at step `last`: before it, or right after it."""

    def __init__(self, it: Rig, last: int, *, after: bool = False) -> None:
        self._it, self._last, self._after = it, last, after
        self.done = 0
        self._real = (it.state.apply, it.files.apply, it.units.reload)

    def __enter__(self) -> Steps:
        it = self._it
        it.state.apply, it.files.apply, it.units.reload = map(self._counted, self._real)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        it = self._it
        it.state.apply, it.files.apply, it.units.reload = self._real  # type: ignore[method-assign]

    def _counted(self, real: Any) -> Any:
        async def call(*arguments: Any) -> Any:
            self.done += 1
            if self.done == self._last and not self._after:
                raise Killed
            result = await real(*arguments)
            if self.done == self._last:
                raise Killed
            return result

        return call
