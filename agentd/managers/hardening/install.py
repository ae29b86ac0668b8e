"""Security and resources drop-ins as transactions: planned, written as one set, loaded by one daemon-reload, proved to
be loaded, restarted into one service at a time, kept as numbered sets, and taken back.

Whatever fails on the way, the files and what systemd has loaded are as they were before. What a kill cuts off is
finished or undone by `recover()`: a set is written down before it begins (history.Pending), its files are changed all
or none (the Files port), and it counts once it is stored in the history.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

from agentd.core.adopted import Declare
from agentd.core.dropin import DropIn
from agentd.core.schema import Settings
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.managers.hardening.adopt import Adoption, prepare
from agentd.managers.hardening.history import PREVIOUS, DropInSet, SetStore, last_change_of, target, way_back
from agentd.managers.hardening.loading import Check, Loading
from agentd.managers.hardening.planning import InstallPlan, Planner
from agentd.managers.hardening.restart import SETTLE, Ready, Restart, Restarter
from agentd.managers.hardening.rollout import Progress, Rollout, UnitOutcome
from agentd.managers.hardening.transaction import Transactions
from agentd.ports import Clock, Files, JournalReader, Kernel, UnitControl
from agentd.ports_hardening import UnitQuery

Guard = Callable[[], AbstractAsyncContextManager[None]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InstallResult:
    """`set_id` is None when no file had to be changed. `kept`: files that are not as they should be and were left
    alone."""

    set_id: int | None = None
    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    reloaded: bool = False
    units: tuple[UnitOutcome, ...] = ()

    @property
    def ok(self) -> bool:
        return all(outcome.ok for outcome in self.units)


class Installer:
    """One change at a time in this process (a lock) and on this machine (`guard`, such as FileLock.hold).

    `files` has to allow the unit directory, and the configuration's directory for `adopt`. `check` tells what of a
    unit is not loaded as declared; `restart` restarts a unit, also one whose owner is somebody else. A caller that is
    cancelled stops nothing: what was begun comes to its end.
    """

    def __init__(
        self,
        control: UnitControl,
        files: Files,
        sets: SetStore,
        events: EventLog,
        clock: Clock,
        *,
        unit_dir: str,
        journal: JournalReader | None = None,
        kernel: Kernel | None = None,
        query: UnitQuery | None = None,
        check: Check | None = None,
        restart: Restart | None = None,
        guard: Guard = contextlib.nullcontext,
        settle: float = SETTLE,
    ) -> None:
        self._control = control
        self._sets = sets
        self._events = events
        self._guard = guard
        self._lock = asyncio.Lock()
        self._recovered = ""
        self._loading = Loading(control, files, unit_dir.rstrip("/"), query, check)
        self._planner = Planner(files, self._loading)
        self._transactions = Transactions(control, files, sets, clock, self._loading)
        restarter = Restarter(
            control, clock, journal=journal, kernel=kernel, query=query, restart=restart, settle=settle
        )
        self._rollout = Rollout(restarter, self._transactions, sets, self._loading, events, clock)

    async def plan(
        self, desired: Sequence[DropIn], *, units: Sequence[str] | None = None, force: bool = False
    ) -> InstallPlan:
        """What `apply` would do, for some units only (none: all). `force`: edited files of ours are replaced."""
        return await self._planner.plan(desired, units=units, force=force)

    async def apply(
        self,
        plan: InstallPlan,
        *,
        restart: bool = False,
        ready: Ready | None = None,
        progress: Progress | None = None,
        also: Sequence[str] = (),
        reason: str = "apply",
    ) -> InstallResult:
        """Raises AgentdError; then everything is as before. A service that does not come up under its drop-ins is no
        error: it got its old ones back, and its outcome says so. `also`: units to restart though nothing changed."""
        return await self._whole(lambda: self._apply(plan, restart, ready, progress, also, reason))

    async def rollback(
        self,
        wanted: str | int = PREVIOUS,
        *,
        restart: bool = False,
        ready: Ready | None = None,
        progress: Progress | None = None,
        force: bool = False,
    ) -> InstallResult:
        """Bring back the files as they were after set `wanted` (0: before the first one; "previous": one state back,
        and one further each time). A file that somebody changed since is kept, unless forced. Raises AgentdError.

        A rollback of an adoption brings back the configuration, too, which has to be read anew then."""
        return await self._whole(lambda: self._roll_back(str(wanted), restart, ready, progress, force))

    async def adopt(self, path: str, settings: Settings, declare: Declare, *, config_dir: str) -> Adoption:
        """Turn an edited or hand-written drop-in into a fragment in `config_dir` (adopt.py says how). `declare` gives
        the drop-ins that a configuration wants. The configuration has to be read anew afterwards. Raises AgentdError;
        then nothing was changed."""
        return await self._whole(lambda: self._adopt(path, settings, declare, config_dir))

    async def adoptable(self, unit: str) -> tuple[str, ...]:
        """Paths of the unit's drop-ins that `adopt` may take: edited ones of ours, and others that set what hardening
        is about."""
        return await self._planner.adoptable(unit)

    async def sets(self) -> tuple[DropInSet, ...]:
        """Oldest first."""
        return await self._sets.sets()

    async def recover(self) -> str:
        """At the start, and after the bus was lost: finish or undo what was cut off. One sentence; "" when there was
        nothing. Raises AgentdError when it has to be tried again. Waits for a unit that has to be started."""
        return await self._whole(self._said)

    # -- how --------------------------------------------------------------------------------------------------

    async def _whole(self, work: Callable[[], Awaitable[T]]) -> T:
        return await asyncio.shield(asyncio.ensure_future(self._alone(work)))

    async def _alone(self, work: Callable[[], Awaitable[T]]) -> T:
        """Nothing is built on what somebody left half done."""
        async with self._lock, self._guard():
            self._recovered = await self._recover()
            return await work()

    async def _said(self) -> str:
        return self._recovered

    async def _recover(self) -> str:
        pending, done = await self._transactions.recover()
        if pending is None:
            return ""
        said = [done] if done else []
        left = await self._sets.pending()
        if left is not None and left.restarting:
            said.append(await self._rollout.resume(left))
        text = "; ".join(said)
        self._events.emit("dropins.recovered", "agentd", text)
        return text

    async def _apply(
        self, plan: InstallPlan, restart: bool, ready: Ready | None, progress: Progress | None, also: Sequence[str],
        reason: str,
    ) -> InstallResult:  # fmt: skip
        item = None
        reloaded = False
        if plan.after:
            item = await self._transactions.run(plan.before, plan.after, reason)
            self._tell("dropins.installed", item)
            reloaded = True
        elif plan.unloaded:
            await self._control.reload()
            missing = await self._loading.unloaded(plan.unloaded)
            if missing:
                raise AgentdError("dropin-not-loaded", f"systemd does not load {', '.join(missing)}")
            reloaded = True
        work: list[tuple[str, DropInSet | None]] = []
        if item is not None and restart:
            work += [(unit, item) for unit in self._rollout.changed_units(item)]
        known = {unit for unit, _ in work}
        work += [(unit, await self._last(unit)) for unit in also if unit not in known]
        outcomes = await self._rollout.run(work, ready, progress)
        return _result(item, plan.kept, reloaded, outcomes)

    async def _roll_back(
        self, wanted: str, restart: bool, ready: Ready | None, progress: Progress | None, force: bool
    ) -> InstallResult:
        sets = await self._sets.sets()
        number = target(sets, wanted)
        left, then = way_back(sets, number)
        found = {path: await self._planner.text(path) for path in then}
        changed = [path for path in then if found[path] != then[path]]
        kept = tuple(path for path in changed if found[path] != left[path] and not force)
        paths = [path for path in changed if path not in kept]
        if not paths:
            return InstallResult(kept=kept)
        before, after = {path: found[path] for path in paths}, {path: then[path] for path in paths}
        state = None if kept else number  # A part of it is a state of its own.
        item = await self._transactions.run(before, after, f"rollback to set {number}", state=state)
        self._tell("dropins.rolled-back", item)
        work = [(unit, item) for unit in self._rollout.changed_units(item)] if restart else []
        return _result(item, kept, True, await self._rollout.run(work, ready, progress))

    async def _adopt(self, path: str, settings: Settings, declare: Declare, config_dir: str) -> Adoption:
        ready = await prepare(path, self._planner, self._loading.unit_dir, settings, declare, config_dir)
        if not ready.after:
            return ready.adoption
        item = await self._transactions.run(ready.before, ready.after, f"adopt {path}")
        self._tell("dropins.adopted", item)
        return replace(ready.adoption, set_id=item.id)

    async def _last(self, unit: str) -> DropInSet | None:
        """The set that the unit's present drop-ins came with, to go back from; None when they are of another origin."""
        sets = await self._sets.sets()
        paths = [path for item in sets for path in item.files if self._loading.unit_of(path) == unit]
        last = last_change_of(sets, paths)
        if last is None:
            return None
        same = [await self._planner.text(path) == last.files[path] for path in paths if path in last.files]
        return last if all(same) else None

    def _tell(self, kind: str, item: DropInSet) -> None:
        written = [path for path, text in item.files.items() if text is not None]
        counts = {"written": len(written), "removed": len(item.files) - len(written)}
        done = " and ".join(f"{count} {word}" for word, count in counts.items() if count)
        text = f"drop-ins: set {item.id} ({item.reason}): {done}, and loaded"
        self._events.emit(kind, "agentd", text, set=item.id, files=", ".join(sorted(item.files)))


def _result(
    item: DropInSet | None, kept: tuple[str, ...], reloaded: bool, outcomes: tuple[UnitOutcome, ...]
) -> InstallResult:
    files = item.files if item is not None else {}
    return InstallResult(
        item.id if item is not None else None,
        tuple(path for path, text in files.items() if text is not None),
        tuple(path for path, text in files.items() if text is None),
        kept,
        reloaded,
        outcomes,
    )
