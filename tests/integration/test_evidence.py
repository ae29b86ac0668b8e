"""What is read of real units: systemd's account by each D-Bus library, its files, and the kernel's account."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.looked import SLEEP, control, looking, seen, started
from privatebus import LIBRARIES
from userunits import UserUnits

from agentd.adapters.unit_files import LocalUnitFiles, stems_of
from agentd.errors import AgentdError
from agentd.ports_hardening import UnitQuery
from agentd.types import JobResult

ONCE = ("ExecStart", "a(sasb)", [("/bin/true", ["true"], False)])
STAYS = ("ExecStart", "a(sasb)", [("/bin/sleep", ["sleep", "1000"], False)])


@pytest.fixture
def units() -> Iterator[UserUnits]:
    made = UserUnits(f"look{os.getpid()}")
    yield made
    made.remove()


# -- systemd's account ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
async def test_all_properties_of_a_service_as_plain_values(units: UserUnits, library: str) -> None:
    lines = (SLEEP, "MemoryMax=80M", "ReadWritePaths=/srv -/opt", "SystemCallFilter=~@mount", "LimitNOFILE=100:200")
    unit = units.service("all", *lines, "Environment=A=b", "RestrictAddressFamilies=AF_UNIX", "CPUAffinity=0")
    async with control(library) as systemd:
        query: UnitQuery = systemd
        await started(systemd, unit)
        found = await query.properties(unit)
        state = await systemd.show(unit)
        assert (found["Id"], found["Names"], found["MainPID"]) == (unit, [unit], state.main_pid)
        assert (found["MemoryMax"], found["LimitNOFILESoft"], found["LimitNOFILE"]) == (80 << 20, 100, 200)
        assert found["ReadWritePaths"] == ["/srv", "-/opt"]
        filtered = found["SystemCallFilter"]
        assert isinstance(filtered, list)
        assert (filtered[0], "mount" in filtered[1]) == (False, True)
        assert found["RestrictAddressFamilies"] == [True, ["AF_UNIX"]]
        assert int.from_bytes(found["CPUAffinity"], "little") == 1  # type: ignore[arg-type]
        assert found["Environment"] == ["A=b"]
        commands = found["ExecStart"]
        assert isinstance(commands, list)
        assert commands[0][:3] == ["/bin/sleep", ["/bin/sleep", "1000"], False]
        assert "MainPID" not in await query.properties("app.slice")
        assert (await query.properties(f"{units.prefix}-none.service"))["LoadState"] == "not-found"


async def test_both_libraries_say_the_same(units: UserUnits) -> None:
    unit = units.service("same", SLEEP, "PrivateUsers=yes", "ProtectSystem=strict", "TemporaryFileSystem=/srv:ro")
    async with control("next") as one, control("fast") as two:
        await started(one, unit)
        counters = {"CPUUsageNSec", "MemoryCurrent", "TasksCurrent", "MemoryAvailable"}
        first, second = await one.properties(unit), await two.properties(unit)
        assert {name: value for name, value in first.items() if value != second[name]}.keys() <= counters
        assert len(first) > 300
        assert await one.manager() == await two.manager()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_the_manager_s_properties(library: str) -> None:
    async with control(library) as systemd:
        found = await systemd.manager()
        assert str(found["Version"])[:3].isdigit()
        assert str(Path.home() / ".config/systemd/user") in found["UnitPath"]  # type: ignore[operator]
        assert str(found["ControlGroup"]).startswith("/")
        assert "+SECCOMP" in str(found["Features"])
        assert isinstance(found["DefaultLimitNOFILE"], int)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_transient_units(units: UserUnits, library: str) -> None:
    name = f"{units.prefix}-{library}"
    async with control(library) as systemd:
        properties = [STAYS, ("MemoryMax", "t", 80 << 20), ("ReadWritePaths", "as", ("-/srv",)), ("UMask", "u", 0o77)]
        job = await systemd.start_transient(f"{name}-stays.service", properties)
        assert await job.wait(5) is JobResult.DONE
        found = await systemd.properties(f"{name}-stays.service")
        assert (found["MemoryMax"], found["ReadWritePaths"], found["UMask"]) == (80 << 20, ["-/srv"], 0o77)
        assert found["Transient"] is True
        for unit, further, kind in [
            (f"{name}-stays.service", (), "unit-exists"),
            (f"{name}-bad.service", (("NoSuchThing", "s", "x"),), "bus-invalid"),
            ("no-suffix", (), "unit-invalid"),
        ]:
            with pytest.raises(AgentdError) as caught:
                await systemd.start_transient(unit, [ONCE, *further])
            assert caught.value.kind == kind
            assert unit in caught.value.message


@pytest.mark.parametrize("library", LIBRARIES)
async def test_no_result_of_a_transient_unit_is_missed(units: UserUnits, library: str) -> None:
    """They may be over before we know the job's path."""
    kind = ("Type", "s", "oneshot")
    fails = ("ExecStart", "a(sasb)", [("/bin/false", ["false"], False)])
    async with control(library) as systemd:
        for number in range(30):
            unit = f"{units.prefix}-{library}{number}.service"
            good = number % 2 == 0
            job = await systemd.start_transient(unit, [kind, ONCE if good else fails])
            assert await job.wait(5) is (JobResult.DONE if good else JobResult.FAILED)
        assert systemd._jobs.idle


# -- files ----------------------------------------------------------------------------------------------------

NAMES = (
    "10-a.conf",
    "20-b.conf",
    "30.conf",
    "Z.conf",
    "a.conf",
    "ä.conf",
    "20-B.conf",
    ".hid.conf",
    "no.txt",
    "b.conf~",
)
ODD_NAMES = {"dir.conf": "", "null.conf": "/dev/null", "dangling.conf": "/no/such", "link.conf": "/etc/hostname"}
STEMS = (
    *("a-b.service", "a.service", "a-.service", "a--x.service", "a.b-c.service", "a--b.service", "a-b.slice"),
    *("t@i.service", "t@i-j.service", "a-b@x.service", "a-b@-.service", "a\\x2db-c.service", "-.service"),
)


def scatter(rng: random.Random, bases: list[Path], stems: list[str]) -> Iterator[Path]:
    """Drop-ins at random; the directories that were made."""
    for base in bases:
        for stem in stems:
            if rng.random() < 0.35:
                folder = base / f"{stem}.d"
                folder.mkdir(parents=True)
                yield folder
                for name in rng.sample(sorted((*NAMES, *ODD_NAMES)), 6):
                    if ODD_NAMES.get(name):
                        (folder / name).symlink_to(ODD_NAMES[name])
                    elif name in ODD_NAMES:
                        (folder / name).mkdir()
                    else:
                        (folder / name).write_text("# nothing\n")


async def test_drop_ins_are_those_of_systemd(units: UserUnits) -> None:
    """In its order, over all its directories, in constellations at random (always the same ones)."""
    rng = random.Random(11)
    runtime = Path(os.environ["XDG_RUNTIME_DIR"]) / "systemd"
    bases = [Path.home() / ".config/systemd/user.control", runtime / "user.control", runtime / "transient"]
    bases += [units.folder, runtime / "user", Path.home() / ".local/share/systemd/user"]
    names = [
        units.write(stem, "[Slice]\n" if stem.endswith(".slice") else f"[Service]\n{SLEEP}\n")
        for stem in ("a-b@.service", "t@.service", *(stem for stem in STEMS if "@" not in stem))
    ]
    names = [name for name in names if "@" not in name] + [f"{units.prefix}-{stem}" for stem in STEMS if "@" in stem]
    stems = sorted({stem for name in names for stem in stems_of(name)} | {"service", "slice"})
    files = LocalUnitFiles()
    compared = 0
    async with control() as systemd:
        unit_dirs: list[str] = (await systemd.manager())["UnitPath"]  # type: ignore[assignment]
        for _ in range(5):
            made: list[Path] = []
            try:
                made += scatter(rng, bases, stems)
                await systemd.reload()
                for name in names:
                    loaded = (await systemd.show(name)).dropin_paths
                    found = await files.dropins_of(name, unit_dirs)
                    assert tuple(file.path for file in found) == loaded, name
                    compared += len(loaded)
            finally:
                for folder in made:
                    shutil.rmtree(folder)
    assert compared > 300


async def test_what_is_loaded_and_what_lies_on_the_disk(units: UserUnits) -> None:
    unit = units.service("files", SLEEP)
    folder = units.folder / f"{unit}.d"
    folder.mkdir()
    try:
        (folder / "50.conf").write_text("[Service]\nLimitCORE=0\n")
        (folder / "60.conf").symlink_to("/dev/null")
        async with looking() as (systemd, looker):
            await started(systemd, unit)
            view, _ = await seen(looker, unit)
            names = [str(units.folder / unit), str(folder / "50.conf"), str(folder / "60.conf")]
            assert [file.path for file in view.files] == names
            assert view.on_disk == view.files[1:]
            assert view.files[1].text == "[Service]\nLimitCORE=0\n"
            assert (view.files[2].text, view.files[2].link) == ("", "/dev/null")
            assert view.state.main_pid == view.properties["MainPID"]
            first = view.loaded_at
            assert 0 < first <= view.started + 0.1

            (folder / "70.conf").write_text("[Service]\nLimitCORE=1\n")
            (folder / "50.conf").unlink()
            view, _ = await seen(looker, unit)
            assert [file.path for file in view.files] == names, "systemd has not read them again"
            assert view.files[1].text is None
            assert [file.path for file in view.on_disk] == [str(folder / "60.conf"), str(folder / "70.conf")]
            assert view.loaded_at == first
            await systemd.reload()
            view, _ = await seen(looker, unit)
            assert view.on_disk == view.files[1:]
            assert view.loaded_at > first
            assert view.loaded_at >= view.on_disk[-1].mtime
    finally:
        shutil.rmtree(folder)


async def test_drop_ins_of_an_alias_count_too(units: UserUnits) -> None:
    unit = units.service("real", SLEEP)
    alias = units.alias("alias", unit)
    folders = [units.folder / f"{unit}.d", units.folder / f"{alias}.d", units.folder / "service.d"]
    try:
        for folder, numbers in zip(folders, ((10, 20), (20, 30, 40), (10, 40, 50)), strict=True):
            folder.mkdir()
            for number in numbers:
                (folder / f"{number}.conf").write_text("# nothing\n")
        async with looking() as (systemd, looker):
            await systemd.reload()
            await systemd.show(alias)
            await started(systemd, unit)
            for name in (unit, alias):
                view, _ = await seen(looker, name)
                assert len(view.on_disk) == 5
                assert view.on_disk == view.files[1:]
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
