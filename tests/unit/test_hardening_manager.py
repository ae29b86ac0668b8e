"""The watcher of hardening on fakes: what is asked how often, and what makes it ask again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping

import pytest
from fakes import FakeStore, FakeUnits
from fakes.inspector import FakeInspector
from fakes.query import UNIT_PATH, FakeQuery
from fakes.unit_files import FakeUnitFiles
from fakes.watch import FakeFileWatch

from agentd.core.schema import Hardening, Service, Settings
from agentd.core.schema_types import Directive
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.managers.hardening.look import Looker
from agentd.managers.hardening.manager import HardeningManager
from agentd.managers.hardening.verify import Verifier
from agentd.types import Role, Scope, ServiceStatus

A, B = "a.service", "b.service"
HOME = UNIT_PATH[0]
TEXTS = {
    "generic.security.conf": "# About.\n\n[Service]\n# Why.\nNoNewPrivileges=yes\n",
    "generic.resources.conf": "# About.\n\n[Service]\n# Why.\nTasksMax=99\n",
}
SETTINGS = Settings(services={"a": Service(unit=A), "b": Service(unit=B)})


class Hurried:
    """The Clock port without waiting."""

    def time(self) -> float:
        return 1.8e9

    def monotonic(self) -> float:
        return 1000.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Rig:
    def __init__(self) -> None:
        self.scored: list[str] = []
        self.score: float | None = 4.2
        self.while_scoring: Callable[[str], None] = lambda unit: None
        self.read_in: list[threading.Thread] = []
        self.unreadable: OSError | None = None
        clock, units = Hurried(), FakeUnits()
        for unit in (A, B):
            units.add(unit, active=True)
        self.watch, self.world = FakeFileWatch(), World(clock)
        looker = Looker(units, FakeQuery(units), FakeInspector(), FakeUnitFiles())
        self.manager = HardeningManager(
            Verifier(looker, Scope.USER, unit_dir=HOME),
            self.watch,
            EventLog(FakeStore(), clock),
            self.world,
            clock,
            self._texts,
            self._static_score,
        )

    def _texts(self) -> Mapping[str, str]:
        self.read_in.append(threading.current_thread())
        if self.unreadable is not None:
            raise self.unreadable
        return TEXTS

    async def _static_score(self, unit: str) -> float | None:
        self.scored.append(unit)
        self.while_scoring(unit)
        return self.score

    async def settled(self) -> None:
        """Until the manager has nothing more to do."""
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def started(self) -> Rig:
        await self.manager.apply(SETTINGS)
        await self.settled()
        return self

    async def restart(self, unit: str, pid: int) -> None:
        self.world.put_service(ServiceStatus(unit.partition(".")[0], Role.GENERIC, unit, main_pid=pid))
        await self.manager.ensure()
        await self.settled()

    def scores(self) -> dict[str, float | None]:
        return {report.unit: report.systemd_score for report in self.manager.reports()}


async def test_a_unit_is_scored_once_however_often_it_is_restarted() -> None:
    it = await Rig().started()
    assert sorted(it.scored) == [A, B]
    before = {report.unit: report for report in it.manager.reports()}
    for pid in range(2, 7):
        await it.restart(A, pid)
    after = {report.unit: report for report in it.manager.reports()}
    assert after[A] is not before[A], "it was verified again"
    assert after[B] is before[B]
    assert sorted(it.scored) == [A, B]
    assert it.scores() == {A: 4.2, B: 4.2}


async def test_a_unit_without_a_score_is_not_asked_at_every_restart() -> None:
    """systemd-analyze may be missing, and an answer may take long to be none."""
    it = Rig()
    it.score = None
    await it.started()
    await it.restart(A, 2)
    assert sorted(it.scored) == [A, B]


async def test_what_the_score_rests_on_has_it_asked_again() -> None:
    it = await Rig().started()
    it.scored.clear()
    it.watch.change(f"{HOME}/{A}.d/10-mine.conf")
    await it.settled()
    assert it.scored == [A]
    it.watch.change(f"{HOME}/service.d/10-mine.conf")
    await it.settled()
    assert sorted(it.scored) == [A, A, B]
    it.scored.clear()
    it.manager.unit_changed(A)
    await it.manager.ensure()
    await it.settled()
    assert it.scored == []
    it.manager.unit_changed(None)
    await it.manager.ensure()
    await it.settled()
    assert sorted(it.scored) == [A, B]
    it.scored.clear()
    await it.started()
    assert sorted(it.scored) == [A, B]


async def test_the_old_score_is_shown_until_there_is_a_new_one() -> None:
    it = await Rig().started()
    seen: list[float | None] = []
    it.while_scoring = lambda unit: seen.append(it.scores()[unit])
    it.score = 1.5
    it.watch.change("")
    await it.settled()
    assert seen == [4.2, 4.2]
    assert it.scores() == {A: 1.5, B: 1.5}


async def test_a_file_that_changes_during_the_score_has_it_asked_again() -> None:
    it = await Rig().started()
    it.scored.clear()
    it.while_scoring = lambda unit: it.watch.change(f"{HOME}/{unit}") if it.scored == [A] else None
    it.watch.change(f"{HOME}/{A}")
    await it.settled()
    assert it.scored == [A, A]


async def test_profiles_are_read_once_and_not_by_the_loop() -> None:
    it = await Rig().started()
    assert len(it.manager.desired) == 4
    other = Settings(services={"a": Service(unit=A, hardening=Hardening(set={"TasksMax": Directive(("7",))}))})
    declared = it.manager.declare(other)
    assert "TasksMax=7" in "".join(dropin.text for dropin in declared)
    it.manager.unit_changed(None)
    await it.manager.verify_now()
    await it.started()
    assert len(it.read_in) == 1
    assert it.read_in[0] is not threading.main_thread()


async def test_profiles_that_cannot_be_read_are_told_and_read_again() -> None:
    it = Rig()
    it.unreadable = PermissionError(13, "Permission denied", "/share/dropins/generic.security.conf")
    await it.manager.apply(SETTINGS)
    assert it.manager.declare(SETTINGS) == ()
    with pytest.raises(AgentdError, match=r"profile /share/dropins/generic.*: permission") as caught:
        await it.manager.verify_now()
    assert (caught.value.kind, caught.value.hint) == ("profile-missing", "install agentd again")
    it.unreadable = None
    await it.manager.verify_now()
    assert len(it.manager.desired) == 4
    await it.manager.close()


async def test_listeners_hear_of_systemd_not_of_units() -> None:
    it, heard = Rig(), []
    it.manager.on_reload.append(lambda: heard.append("systemd"))
    it.manager.unit_changed(A)
    assert heard == []
    it.manager.unit_changed(None)
    assert heard == ["systemd"]
