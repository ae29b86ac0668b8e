"""The Looker on fakes: what it asks, and how it puts the answers together."""

from __future__ import annotations

import asyncio

import pytest
from fakes import FakeUnits
from fakes.inspector import FakeInspector
from fakes.query import UNIT_PATH, FakeQuery
from fakes.unit_files import FakeUnitFiles

from agentd.errors import AgentdError
from agentd.evidence import HostEvidence, PathEvidence, ProcessEvidence, UnitEvidence
from agentd.managers.hardening.look import Looker
from agentd.types import ActiveState, JobResult, Scope

UNIT = "a-b.service"
GROUP = "/app.slice/a-b.service"
HOME, ETC, LIB = UNIT_PATH
FRAGMENT = f"{HOME}/{UNIT}"


class World:
    def __init__(self, *, active: bool = True) -> None:
        self.units = FakeUnits()
        self.units.add(UNIT, active=active)
        self.units.change(UNIT, control_group=GROUP, fragment_path=FRAGMENT)
        self.query = FakeQuery(self.units)
        self.inspector = FakeInspector()
        self.inspector.units[GROUP] = UnitEvidence(GROUP, processes=(ProcessEvidence(7),))
        self.files = FakeUnitFiles({FRAGMENT: "[Service]\n"})
        self.looker = Looker(self.units, self.query, self.inspector, self.files)

    async def host(self) -> HostEvidence:
        return await self.looker.host(Scope.USER)


async def test_files_in_the_order_in_which_they_were_applied() -> None:
    world = World()
    loaded = [f"{ETC}/service.d/10.conf", f"{HOME}/{UNIT}.d/20.conf"]
    world.files.texts |= {loaded[1]: "[Service]\nNice=1\n", f"{HOME}/{UNIT}.d/05.conf": "# new\n"}
    world.units.change(UNIT, dropin_paths=tuple(loaded))
    view = await world.looker.view(UNIT, await world.host())
    assert [(file.path, file.text) for file in view.files] == [
        (FRAGMENT, "[Service]\n"),
        (loaded[0], None),
        (loaded[1], "[Service]\nNice=1\n"),
    ]
    assert [file.path for file in view.on_disk] == [f"{HOME}/{UNIT}.d/05.conf", loaded[1]]
    assert view.state.main_pid > 0


async def test_a_unit_without_a_file() -> None:
    world = World()
    view = await world.looker.view("none.service", await world.host())
    assert (view.files, view.on_disk, view.started) == ((), (), 0.0)
    assert await world.looker.evidence(view, ()) is None


async def test_drop_ins_of_aliases_stand_between_the_unit_s_own_and_those_of_its_type() -> None:
    world = World()
    world.query.set(UNIT, Names=["alias.service", UNIT])
    for folder, names in {UNIT: "12", "alias.service": "23", "service": "134"}.items():
        for name in names:
            world.files.texts[f"{HOME}/{folder}.d/{name}.conf"] = folder
    expected = [("1", UNIT), ("2", UNIT), ("3", "alias.service"), ("4", "service")]
    for asked in (UNIT, "alias.service"):
        world.query.set(asked, Id=UNIT, Names=["alias.service", UNIT])
        view = await world.looker.view(asked, await world.host())
        assert [(file.path.rpartition("/")[2][0], file.text) for file in view.on_disk] == expected


@pytest.mark.parametrize(
    ("start", "reload", "seconds"), [(1_000_000, 0, 1.0), (1_000_000, 2_500_000, 2.5), (0, 0, 0.0), (2**64 - 1, 0, 0.0)]
)
async def test_when_the_unit_files_were_read_last(start: int, reload: int, seconds: float) -> None:
    world = World()
    world.query.manager_properties |= {"UnitsLoadStartTimestamp": start, "UnitsLoadTimestamp": reload}
    assert (await world.looker.view(UNIT, await world.host())).loaded_at == seconds


async def test_when_the_main_process_was_started() -> None:
    world = World()
    world.query.set(UNIT, ExecMainStartTimestamp=1_500_000)
    assert (await world.looker.view(UNIT, await world.host())).started == 1.5
    world.units.change(UNIT, main_pid=0)
    assert (await world.looker.view(UNIT, await world.host())).started == 0.0


async def test_evidence_is_of_the_paths_that_were_asked_for() -> None:
    world = World()
    usr = PathEvidence(True, True, 0o755, 1, 2)
    world.inspector.units[GROUP] = UnitEvidence(GROUP, processes=(ProcessEvidence(7, paths={"/usr": usr}),))
    view = await world.looker.view(UNIT, await world.host())
    evidence = await world.looker.evidence(view, ("/usr", "/etc"))
    assert evidence is not None
    assert evidence.processes[0].paths == {"/usr": usr, "/etc": PathEvidence(exists=False)}


@pytest.mark.parametrize("state", [ActiveState.INACTIVE, ActiveState.FAILED])
async def test_a_unit_that_does_not_run_is_not_inspected(state: ActiveState) -> None:
    world = World()
    world.units.change(UNIT, active_state=state)
    view = await world.looker.view(UNIT, await world.host())
    assert await world.looker.evidence(view, ()) is None
    assert world.inspector.asked == []


async def test_a_unit_whose_processes_are_all_gone() -> None:
    world = World()
    world.inspector.units.clear()
    view = await world.looker.view(UNIT, await world.host())
    assert await world.looker.evidence(view, ()) is None


async def test_the_host_is_read_once_until_it_is_forgotten() -> None:
    world = World()
    first, second = await asyncio.gather(world.host(), world.host())
    assert first is second
    assert first.unit_dirs == UNIT_PATH
    assert world.inspector.hosts_read == 1
    assert (await world.looker.host(Scope.SYSTEM)).scope is Scope.SYSTEM
    world.looker.forget()
    await world.host()
    assert world.inspector.hosts_read == 3


async def test_a_failure_is_not_remembered() -> None:
    world = World()
    world.units.drop_bus()
    with pytest.raises(AgentdError):
        await world.host()
    world.units.restore_bus()
    world.inspector.fails = AgentdError("inspection-stuck", "cannot inspect the host")
    with pytest.raises(AgentdError):
        await world.host()
    world.inspector.fails = None
    assert (await world.host()).scope is Scope.USER


async def test_the_fake_s_transient_units() -> None:
    world = World()
    world.query.unknown.add("PrivatePIDs")
    started = [("ExecStart", "a(sasb)", [("/bin/true", ["true"], False)])]
    job = await world.query.start_transient("canary.service", started)
    assert await job.wait(5) is JobResult.DONE
    for unit, properties, kind in [
        ("canary.service", started, "unit-exists"),
        ("other.service", [("PrivatePIDs", "b", True)], "bus-invalid"),
        ("no-suffix", started, "unit-invalid"),
    ]:
        with pytest.raises(AgentdError) as caught:
            await world.query.start_transient(unit, properties)  # type: ignore[arg-type]
        assert caught.value.kind == kind
    assert world.query.transient == [("canary.service", tuple(started))]
