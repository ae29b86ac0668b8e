"""The drop-ins on fakes: declared, written as one set, loaded once, verified, left alone, taken away."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import msgspec
import pytest
from fakes import FakeFiles, FakeStore, FakeUnits, FakeWorld

from agentd.core import dropin
from agentd.core.schema import Model, Seconds, Service, Settings, Slot
from agentd.engine.events import EventLog
from agentd.errors import AgentdError, BusError
from agentd.managers.dropins import DropinsManager
from agentd.types import UnitState

DIR = "/home/user/.config/systemd/user"
A, B = "vllm-dolphin.service", "vllm-qwen.service"
EXCLUSIVE = {unit: f"{DIR}/{dropin.path_of(unit, dropin.Purpose.EXCLUSIVE)}" for unit in (A, B)}
READINESS = f"{DIR}/{dropin.path_of(B, dropin.Purpose.READINESS)}"


def settings(*, exclusive: bool = True, gate: bool = False, models: tuple[str, ...] = ("qwen", "dolphin")) -> Settings:
    def model(name: str) -> Service:
        spec = Model(slot="gpu0", served_name=name, ready_timeout=Seconds(120.0))
        url = "http://127.0.0.1:8001"
        return Service(unit=f"vllm-{name}.service", role="model", url=url, model=spec, gate=gate and name == "qwen")

    slots = {"gpu0": Slot(exclusive=exclusive)} if models else {}
    return Settings(slots=slots, services={name: model(name) for name in models})


def sleepy(switch: str = "sleep1", **slot: object) -> Settings:
    """dolphin may sleep, qwen may not."""
    made = settings()
    spec = made.services["dolphin"].model
    assert spec is not None
    dolphin = msgspec.structs.replace(
        made.services["dolphin"], model=msgspec.structs.replace(spec, switch=switch), url="http://127.0.0.1:8002"
    )
    services = {**made.services, "dolphin": dolphin}
    return msgspec.structs.replace(made, services=services, slots={"gpu0": Slot(**slot)})  # type: ignore[arg-type]


class LoadingUnits(FakeUnits):
    """Units that load drop-ins at a reload, as systemd does."""

    files: FakeFiles
    deaf = False
    """True: it reloads, but takes nothing in."""

    async def reload(self) -> None:
        await super().reload()
        if not self.deaf:
            self.load()

    def load(self) -> None:
        for name, unit in self.units.items():
            paths = tuple(sorted(p for p in self.files.texts if p.startswith(f"{DIR}/{name}.d/")))
            lines = "\n".join(self.files.texts[p] for p in paths).splitlines()
            conflicts = frozenset(line.partition("=")[2] for line in lines if line.startswith("Conflicts="))
            unit.state = dataclasses.replace(unit.state, dropin_paths=paths, conflicts=conflicts)


@dataclass
class Rig:
    manager: DropinsManager
    units: LoadingUnits
    files: FakeFiles
    events: EventLog

    @property
    def reloads(self) -> int:
        return self.units.calls.count(("reload", ""))

    def verdicts(self) -> dict[object, object]:
        return {f.aspect: f.verdict for f in self.manager.findings()}

    def kinds(self) -> list[str]:
        return [e.kind for e in self.events.recent(100)]


def rig() -> Rig:
    world = FakeWorld()
    units, files = LoadingUnits(world.kernel, clock=world.clock.time), FakeFiles()
    units.files = files
    for unit in (A, B):
        units.add(unit)
    events = EventLog(FakeStore(), world.clock)
    manager = DropinsManager(units, files, events, unit_dir=DIR, agentctl="/home/user/.local/bin/agentctl")
    units.on_change(lambda unit: manager.units_changed() if unit is None else None)
    return Rig(manager, units, files, events)


async def test_installed_as_one_set_with_one_reload() -> None:
    it = rig()
    await it.manager.apply(settings(gate=True))
    assert set(it.files.texts) == {*EXCLUSIVE.values(), READINESS}
    assert it.files.writes == 1
    assert it.reloads == 1
    assert it.manager.findings() == ()
    assert it.kinds() == ["dropins.installed"]
    assert "wait-ready vllm-qwen --quiet --url http://127.0.0.1:8001/health" in it.files.texts[READINESS]


async def test_converged_twice_in_a_row() -> None:
    it = rig()
    await it.manager.apply(settings(gate=True))
    before = dict(it.files.texts)
    await it.manager.apply(settings(gate=True))
    await it.manager.ensure()
    assert (it.files.texts, it.files.writes, it.reloads) == (before, 1, 1)


async def test_a_pass_without_news_asks_nothing() -> None:
    it = rig()
    await it.manager.apply(settings())
    await it.manager.ensure()
    it.units.drop_bus()
    await it.manager.ensure()


async def test_removed_with_their_reason() -> None:
    it = rig()
    await it.manager.apply(settings(gate=True))
    await it.manager.apply(settings(exclusive=False, gate=True))
    assert set(it.files.texts) == {READINESS}
    await it.manager.apply(Settings())
    assert it.files.texts == {}
    assert it.reloads == 3
    assert it.manager.findings() == ()


async def test_a_single_model_needs_no_exclusion() -> None:
    it = rig()
    await it.manager.apply(settings(models=("qwen",)))
    assert it.files.texts == {}
    assert it.reloads == 0


async def test_an_edited_file_is_kept_and_shown_until_it_is_gone() -> None:
    it = rig()
    await it.manager.apply(settings(gate=True))
    it.files.texts[READINESS] += "Environment=MINE=1\n"
    await it.manager.apply(settings(gate=True))
    assert "MINE=1" in it.files.texts[READINESS]
    (finding,) = it.manager.findings()
    assert (finding.subject, finding.verdict) == (B, "drift")
    await it.manager.apply(Settings())
    assert "MINE=1" in it.files.texts[READINESS], "kept also when it is not wanted any more"
    assert set(it.files.texts) == {READINESS}
    del it.files.texts[READINESS]
    await it.manager.apply(settings(gate=True))
    assert it.manager.findings() == ()


@pytest.mark.parametrize("name", ["override.conf", "90-agentd-security.conf", "90-agentd-custom.conf"])
async def test_foreign_names_are_not_looked_at(name: str) -> None:
    it = rig()
    it.files.texts[f"{DIR}/{B}.d/{name}"] = "[Service]\n"
    await it.manager.apply(settings())
    await it.manager.apply(Settings())
    assert it.files.texts == {f"{DIR}/{B}.d/{name}": "[Service]\n"}
    assert it.manager.findings() == ()


async def test_a_foreign_file_under_our_name_is_kept() -> None:
    it = rig()
    it.files.texts[EXCLUSIVE[A]] = "[Unit]\nDescription=mine\n"
    await it.manager.apply(settings())
    assert it.files.texts[EXCLUSIVE[A]] == "[Unit]\nDescription=mine\n"
    assert EXCLUSIVE[B] in it.files.texts
    assert it.verdicts()[dropin.path_of(A, dropin.Purpose.EXCLUSIVE)] == "drift"
    assert it.verdicts()["Conflicts="] == "not-loaded", "and the exclusion that is missing is said"


async def test_one_that_cannot_be_read_is_kept() -> None:
    it = rig()
    await it.manager.apply(settings(gate=True))
    read = it.files.read

    async def refuse(path: str) -> str | None:
        if path == READINESS:
            raise AgentdError("file-read", f"cannot read {path}: it is a symbolic link, not a file of ours")
        return await read(path)

    it.files.read = refuse  # type: ignore[method-assign]
    before = dict(it.files.texts)
    await it.manager.apply(settings(gate=True))
    assert it.files.texts == before
    assert list(it.verdicts().values()) == ["drift"]


async def test_a_directory_that_cannot_be_written_is_a_finding() -> None:
    it = rig()
    it.files.refuse = set(EXCLUSIVE.values())
    await it.manager.apply(settings())
    assert it.files.texts == {}
    assert it.reloads == 0
    missing = [f for f in it.manager.findings() if f.verdict == "not-installed"]
    assert len(missing) == 2
    assert "permission denied" in str(missing[0].cause)
    assert it.kinds() == ["dropins.refused"]
    await it.manager.ensure()
    assert it.kinds() == ["dropins.refused"], "not tried again at every pass"
    it.files.refuse = set()
    await it.manager.apply(settings())
    assert it.manager.findings() == ()


async def test_what_systemd_does_not_load_is_taken_back() -> None:
    it = rig()
    it.units.deaf = True
    await it.manager.apply(settings())
    assert it.files.texts == {}, "as before"
    assert it.reloads == 2, "and systemd is told so"
    assert {f.verdict for f in it.manager.findings()} == {"not-installed", "not-loaded"}
    for _ in range(3):
        await it.manager.ensure()
    assert it.reloads == 2, "no endless reloads"


async def test_a_failed_reload_restores_the_files_and_is_made_up_for() -> None:
    it = rig()
    it.units.refuse["reload"] = BusError("bus-down", "cannot reload the unit files: the bus is gone")
    with pytest.raises(BusError):
        await it.manager.apply(settings())
    assert it.files.texts == {}
    with pytest.raises(BusError):
        await it.manager.ensure()
    del it.units.refuse["reload"]
    await it.manager.ensure()
    assert set(it.files.texts) == set(EXCLUSIVE.values())
    assert it.manager.findings() == ()


async def test_files_that_were_never_loaded_are_loaded_once() -> None:
    first = rig()
    await first.manager.apply(settings())
    it = rig()
    it.files.texts.update(first.files.texts)
    await it.manager.apply(settings())
    assert it.reloads == 1
    assert it.manager.findings() == ()
    it.units.deaf = True
    for name in (A, B):
        it.units.change(name, dropin_paths=(), conflicts=frozenset())
    it.manager.units_changed()
    await it.manager.ensure()
    assert it.reloads == 1, "a pass only looks"
    assert "not-loaded" in it.verdicts().values()


async def test_a_unit_that_does_not_exist_yet_is_no_finding() -> None:
    it = rig()
    it.units.remove(A)
    await it.manager.apply(settings())
    assert set(it.files.texts) == set(EXCLUSIVE.values())
    assert it.manager.findings() == ()
    assert await it.units.show(A) == UnitState(A)


async def test_what_is_edited_later_is_seen_after_the_reload_that_takes_it_in() -> None:
    it = rig()
    await it.manager.apply(settings())
    it.files.texts[EXCLUSIVE[A]] += "# mine\n"
    await it.units.reload()
    await it.manager.ensure()
    assert list(it.verdicts().values()) == ["drift"]


async def test_where_a_model_may_sleep_a_guard_takes_the_place_of_the_conflict_and_back() -> None:
    it = rig()
    await it.manager.apply(settings())
    await it.manager.apply(sleepy())
    guard = "ExecStartPre=+/home/user/.local/bin/agentctl models guard"
    assert f"{guard} {A} -- {B}=http://127.0.0.1:8001" in it.files.texts[EXCLUSIVE[A]]
    assert f"{guard} {B} -- {A}=http://127.0.0.1:8002" in it.files.texts[EXCLUSIVE[B]]
    assert it.units.state(A).conflicts == frozenset()
    assert it.manager.findings() == (), "no conflict is missed where a guard stands"
    await it.manager.apply(sleepy(max_sleepers=0))
    assert it.units.state(A).conflicts == {B}
    assert it.manager.findings() == ()
