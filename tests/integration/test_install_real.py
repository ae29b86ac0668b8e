"""Drop-ins installed into a real user manager: loaded, verified by it, refused by it, and survived by the services."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from fakes import FakeStore
from userunits import UserUnits, systemctl

from agentd.adapters.clock import SystemClock
from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.adapters.journal import JournalctlReader
from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.systemd import SystemdControl
from agentd.core import profile
from agentd.core.dropin import DropIn, Purpose
from agentd.core.schema import Service, Settings
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.evidence import HostEvidence
from agentd.managers.hardening.history import SetStore
from agentd.managers.hardening.install import Installer, InstallResult

SLEEP = "ExecStart=/bin/sleep 1000"
NNP, UMASK = "NoNewPrivileges=yes", "UMask=0077"


@pytest.fixture
def units() -> Iterator[UserUnits]:
    made = UserUnits(f"install{os.getpid()}")
    yield made
    for folder in made.folder.glob(f"{made.prefix}-*.d"):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    made.remove()


class Counted(SystemdControl):
    reloads = 0

    async def reload(self) -> None:
        self.reloads += 1
        await super().reload()


class Place:
    """The private manager's unit directory with a state directory of its own."""

    def __init__(self, units: UserUnits, tmp_path: Path, control: Counted) -> None:
        self.units, self.control = units, control
        self.state, self.config = tmp_path / "state", tmp_path / "config.d"
        self.config.mkdir(exist_ok=True)
        self.files = LocalFiles([units.folder, tmp_path], journal=self.state / "files.json")
        self.installer = Installer(
            control,
            self.files,
            SetStore(LocalFiles([self.state], journal=self.state / "sets.json", mode=0o600), str(self.state / "sets")),
            EventLog(FakeStore(), SystemClock()),
            SystemClock(),
            unit_dir=str(units.folder),
            journal=JournalctlReader(),
            kernel=LinuxKernel(),
            query=control,
            guard=FileLock(self.state / "install.lock").hold,
            settle=0.3,
        )

    def path(self, unit: str, purpose: str = "security") -> Path:
        return self.units.folder / f"{unit}.d/90-agentd-{purpose}.conf"

    def found(self) -> dict[str, str]:
        """Everything that lies in the units' drop-in directories."""
        return {
            str(path.relative_to(self.units.folder)): path.read_text()
            for path in self.units.folder.glob(f"{self.units.prefix}-*.d/*")
        }

    async def install(self, *desired: DropIn, restart: bool = False, force: bool = False) -> InstallResult:
        return await self.installer.apply(await self.installer.plan(desired, force=force), restart=restart)


Opened = Callable[[], AbstractAsyncContextManager[Place]]


@pytest.fixture
def place(units: UserUnits, tmp_path: Path) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Place]:
        control = Counted()
        await control.start_up()
        assert control.connected, control.problem
        try:
            yield Place(units, tmp_path, control)
        finally:
            await control.close()

    return opened


def security(unit: str, *lines: str) -> DropIn:
    return DropIn(unit, Purpose.SECURITY, "[Service]\n" + "\n".join(lines) + "\n")


def show(unit: str, name: str) -> str:
    return systemctl("show", "--value", "-p", name, unit)


def last_reload() -> str:
    return systemctl("show", "--value", "-p", "UnitsLoadFinishTimestampMonotonic")


async def test_installed_loaded_once_and_then_left_alone(units: UserUnits, place: Opened) -> None:
    one, two = units.service("one", SLEEP), units.service("two", SLEEP)
    systemctl("daemon-reload")
    async with place() as it:
        desired = [security(one, NNP), DropIn(one, Purpose.RESOURCES, "[Service]\nTasksMax=77\n"), security(two, NNP)]
        result = await it.install(*desired)
        assert (len(result.written), result.set_id, it.control.reloads) == (3, 1, 1)
        assert str(it.path(one)) in show(one, "DropInPaths")
        assert (show(one, "TasksMax"), show(two, "NoNewPrivileges"), show(one, "NeedDaemonReload")) == (
            "77",
            "yes",
            "no",
        )
        before, when = it.found(), last_reload()
        result = await it.install(*desired, restart=True)
        assert (result.set_id, result.units, it.control.reloads) == (None, (), 1)
        assert (it.found(), last_reload()) == (before, when)
        await it.install(security(one, NNP))
        assert it.control.reloads == 2
        assert str(it.path(two)) not in show(two, "DropInPaths")
        assert not it.path(two).parent.exists()


async def test_drift_and_rollback(units: UserUnits, place: Opened) -> None:
    unit = units.service("one", SLEEP)
    systemctl("daemon-reload")
    async with place() as it:
        await it.install(security(unit, NNP))
        await it.install(security(unit, NNP, UMASK))
        assert show(unit, "UMask") == "0077"
        await it.installer.rollback()
        assert (show(unit, "UMask"), show(unit, "NoNewPrivileges")) == ("0022", "yes")
        edited = it.path(unit).read_text() + "Nice=5\n"
        it.path(unit).write_text(edited)
        assert (await it.install(security(unit, UMASK))).kept == (str(it.path(unit)),)
        assert it.path(unit).read_text() == edited
        await it.install(security(unit, UMASK), force=True)
        assert (show(unit, "Nice"), show(unit, "UMask")) == ("0", "0077")
        await it.installer.rollback()
        assert it.path(unit).read_text() == edited
        await it.installer.rollback(0, force=True)
        assert it.found() == {}
        assert show(unit, "DropInPaths") == ""


async def test_adopted(units: UserUnits, place: Opened) -> None:
    unit = units.service("one", SLEEP)
    systemctl("daemon-reload")
    texts = {
        f"{name}.{purpose}.conf": ""
        for name in ("gateway", "gpu", "store", "generic")
        for purpose in ("security", "resources")
    }
    texts["generic.security.conf"] = "[Service]\nNoNewPrivileges=yes\nUMask=0027\n"
    texts["generic.resources.conf"] = "[Service]\nTasksMax=99\n"
    settings = Settings(services={"one": Service(unit=unit)})

    def declare(wanted: Settings) -> Sequence[DropIn]:
        return profile.desired(wanted, texts, HostEvidence(systemd=252))

    async with place() as it:
        await it.install(*declare(settings))
        theirs = it.path(unit).with_name("security.conf")
        theirs.write_text("[Service]\nUMask=0007\nEnvironment=A=1\n")
        it.path(unit).write_text(it.path(unit).read_text() + "PrivateTmp=yes\n")
        systemctl("daemon-reload")
        before = {name: show(unit, name) for name in ("UMask", "NoNewPrivileges", "TasksMax", "PrivateTmp")}
        now = settings
        for path in await it.installer.adoptable(unit):
            now = (await it.installer.adopt(path, now, declare, config_dir=str(it.config))).settings
        assert {name: show(unit, name) for name in before} == before, "nothing is different for the unit"
        assert theirs.read_text() == "[Service]\nEnvironment=A=1\n"
        assert sorted(path.name for path in it.config.iterdir()) == ["60-adopted-one.toml", "61-adopted-one.toml"]
        plan = await it.installer.plan(declare(now))
        assert (plan.empty, plan.kept, str(plan)) == (True, (), "")


# -- what goes wrong --------------------------------------------------------------------------------------------------
async def test_what_systemd_refuses(units: UserUnits, place: Opened) -> None:
    one, two = units.service("one", SLEEP), units.service("two", SLEEP)
    systemctl("daemon-reload")
    async with place() as it:
        await it.install(security(one, NNP))
        before = it.found()
        with pytest.raises(
            AgentdError, match=r"two\.service cannot be loaded any more: .* bad unit file setting"
        ) as caught:
            await it.install(security(one, NNP, UMASK), security(two, "ExecStart="))
        assert caught.value.kind == "dropin-not-loaded"
        assert it.found() == before
        assert (show(two, "LoadState"), show(one, "UMask")) == ("loaded", "0022")
        assert [item.id for item in await it.installer.sets()] == [1]


async def test_a_value_that_systemd_does_not_understand(units: UserUnits, place: Opened) -> None:
    unit = units.service("one", SLEEP)
    systemctl("daemon-reload")
    async with place() as it:
        with pytest.raises(AgentdError, match=r"ProtectSystem no and not strictest, as .*security\.conf:6 says"):
            await it.install(security(unit, NNP, "ProtectSystem=strictest"))
        assert it.found() == {}
        assert show(unit, "NoNewPrivileges") == "no"


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, folder], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=30)


async def test_a_full_disk(units: UserUnits, place: Opened) -> None:
    unit = units.service("one", SLEEP)
    systemctl("daemon-reload")
    async with place() as it:
        folder = it.path(unit).parent
        with mounted(folder, "-t", "tmpfs", "-o", "size=12k", "tmpfs"):
            await it.install(security(unit, NNP))
            before = it.found()
            (folder / "filler").write_bytes(b"x" * 4096)
            desired = [security(unit, NNP, UMASK, *["# so long"] * 500), DropIn(unit, Purpose.RESOURCES, "[Service]\n")]
            with pytest.raises(AgentdError, match=r"cannot write .*\.conf: no space left on device") as caught:
                await it.install(*desired)
            assert caught.value.kind == "file-write"
            (folder / "filler").unlink()
            assert it.found() == before, "nothing is half written"
            assert show(unit, "UMask") == "0022"


async def test_a_directory_that_cannot_be_written(units: UserUnits, place: Opened) -> None:
    one, two = units.service("one", SLEEP), units.service("two", SLEEP)
    systemctl("daemon-reload")
    async with place() as it:
        await it.install(security(one, NNP))
        before, folder = it.found(), it.path(two).parent
        folder.mkdir()
        with mounted(folder, "--bind", "-o", "ro", str(folder)):
            with pytest.raises(AgentdError, match=rf"cannot write {folder}/.*: read-only file system"):
                await it.install(security(one, UMASK), security(two, UMASK))
            assert it.found() == before
        assert it.control.reloads == 1


DEADLY: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "226": (("ReadWritePaths=/missing /tmp",), "226/NAMESPACE", "ReadWritePaths"),
    "226-userns": (
        ("PrivateUsers=yes", "ProtectHome=read-only", "ReadOnlyPaths=/missing"),
        "226/NAMESPACE",
        "ReadOnlyPaths",
    ),
    "218": (("PrivateDevices=yes",), "218/CAPABILITIES", "PrivateDevices"),
    "203": (("NoExecPaths=/usr/bin /bin",), "203/EXEC", "NoExecPaths"),
    "243": (("LoadCredential=x:/missing",), "243/CREDENTIALS", "LoadCredential"),
}


@pytest.mark.parametrize(
    ("case", "kind"),
    [*((case, "simple") for case in DEADLY), *(("226", kind) for kind in ("exec", "crash-loop", "start-pre"))],
)
async def test_a_service_that_dies_under_it_is_back_as_it_was(
    units: UserUnits, place: Opened, case: str, kind: str
) -> None:
    lines, name, directive = DEADLY[case]
    more = {
        "simple": ["Type=simple"], "exec": ["Type=exec"], "crash-loop": ["Restart=always", "RestartSec=100ms"],
        "start-pre": ["ExecStartPre=/bin/true"],
    }[kind]  # fmt: skip
    program = SLEEP
    if case == "218":
        # A manager without privileges cannot do it at all; where it has them, the program ends as systemd would.
        device = Path("/dev").stat().st_dev
        program = f"ExecStart=/bin/sh -c '[ $(stat -c %%d /dev) = {device} ] || exit 218; exec sleep 1000'"
    unit, other = units.service("one", program, *more), units.service("two", SLEEP)
    systemctl("daemon-reload")
    systemctl("start", unit, other)
    async with place() as it:
        await it.install(security(unit, NNP), restart=True)
        was = it.path(unit).read_text()
        result = await it.install(security(unit, NNP, *lines), security(other, UMASK), restart=True)
        first, second = result.units
        assert (first.result.value, second.result.value) == ("rolled-back", "restarted"), first.message
        assert first.diagnosis.name == name, first.message
        assert [d.key for d in first.diagnosis.directives] == [directive], first.message
        assert first.diagnosis.exact
        assert str(it.path(unit)) in first.message
        assert it.path(unit).read_text() == was
        assert (show(unit, "ActiveState"), show(unit, "SubState")) == ("active", "running")
        pid = show(unit, "MainPID")
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text(), "under its old drop-in"
        assert (show(other, "ActiveState"), show(other, "UMask")) == ("active", "0077")


async def test_a_notify_service_that_is_not_heard_any_more(units: UserUnits, place: Opened) -> None:
    """It would wait for its start timeout; what it says goes to a socket that it cannot see."""
    unit = units.service(
        "one", "Type=notify", "NotifyAccess=all", "TimeoutStartSec=2s",
        "ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'",
    )  # fmt: skip
    systemctl("daemon-reload")
    systemctl("start", unit)
    async with place() as it:
        result = await it.install(security(unit, "InaccessiblePaths=%t/systemd"), restart=True)
        (outcome,) = result.units
        assert outcome.result.value == "rolled-back", outcome.message
        assert [d.key for d in outcome.diagnosis.directives] == ["InaccessiblePaths"], outcome.message
        assert show(unit, "ActiveState") == "active"
        assert it.found() == {}


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from agentd.adapters.clock import SystemClock
from agentd.adapters.files import LocalFiles
from agentd.adapters.systemd import SystemdControl
from agentd.core.dropin import DropIn, Purpose
from agentd.managers.hardening.history import SetStore
from agentd.managers.hardening.install import Installer

class Events:
    def emit(self, *_, **__): pass

async def main(folder, state, unit, line, moment):
    control = SystemdControl()
    await control.start_up()
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    class Control:
        def __getattr__(self, name): return getattr(control, name)
        async def reload(self):
            if moment == "before-reload": die()
            await control.reload()
            if moment == "after-reload": die()
        async def restart(self, unit):
            job = await control.restart(unit)
            if moment == "restarting":
                await job.wait(10)
                while (await control.show(unit)).active_state.value != "failed":
                    await asyncio.sleep(0.05)
                die()
            return job
    files = LocalFiles([folder], journal=state / "files.json")
    sets = SetStore(LocalFiles([state], journal=state / "sets.json"), str(state / "sets"))
    it = Installer(Control(), files, sets, Events(), SystemClock(), unit_dir=str(folder))
    desired = [DropIn(unit, Purpose.SECURITY, f"[Service]\\n{line}\\n")]
    await it.apply(await it.plan(desired), restart=True)

folder, state, unit, line, moment = sys.argv[1:]
asyncio.run(main(Path(folder), Path(state), unit, line, moment))
"""


@pytest.mark.parametrize(
    ("moment", "line", "installed"),
    [
        ("before-reload", NNP, True), ("after-reload", NNP, True), ("restarting", "ReadWritePaths=/missing", False),
    ],
)  # fmt: skip
async def test_killed_in_the_middle(units: UserUnits, place: Opened, moment: str, line: str, installed: bool) -> None:
    unit = units.service("one", SLEEP)
    systemctl("daemon-reload")
    systemctl("start", unit)
    async with place() as it:
        command = (str(units.folder), str(it.state), unit, line, moment)
        process = await asyncio.create_subprocess_exec(".venv/bin/python", "-c", KILLED, *command)
        assert await process.wait() == -9
        assert list((it.state / "sets").glob("pending.json"))
        said = await it.installer.recover()
        assert unit in said or "is now installed" in said
        assert it.path(unit).exists() is installed
        assert (str(it.path(unit)) in show(unit, "DropInPaths")) is installed
        assert show(unit, "ActiveState") == "active"
        assert not list((it.state / "sets").glob("pending.json"))
        assert await it.installer.recover() == ""
        await it.installer.rollback(0)
        assert it.found() == {}
