"""Faults as they happen in the field, planted in a real user manager: each is found, with its own cause."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from userunits import UserUnits, systemctl

from agentd.core.dropin import DropIn, Purpose, directives
from agentd.findings import Finding, Verdict
from agentd.managers.hardening.verify import UnitReport
from agentd.offline_hardening import connected
from agentd.types import Scope

SLEEP = "ExecStart=/bin/sleep infinity"
SANDBOX = (
    ("PrivateUsers", "yes"),
    ("NoNewPrivileges", "yes"),
    ("ProtectSystem", "strict"),
    ("LimitNOFILE", "512"),
    ("SystemCallFilter", "@system-service"),
)


@dataclass
class Planted:
    """One unit, with our drop-in as declared; `ours` is on the disk and loaded, and the service runs."""

    units: UserUnits
    unit: str = ""
    ours: DropIn = field(init=False)

    def __post_init__(self) -> None:
        self.unit = self.units.service(f"planted-{uuid.uuid4().hex[:6]}", SLEEP)
        self.ours = directives(self.unit, Purpose.SECURITY, {"Service": SANDBOX})

    @property
    def folder(self) -> Path:
        return self.units.folder / f"{self.unit}.d"

    @property
    def file(self) -> Path:
        return self.units.folder / self.ours.path

    def install(self, *, start: bool = True) -> Planted:
        self.write(self.file.name, self.ours.text)
        systemctl("daemon-reload")
        if start:
            systemctl("restart", self.unit)
        return self

    def write(self, name: str, text: str) -> Path:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        path.write_text(text)
        if path not in self.units._files:
            self.units._files.append(path)
        return path

    def reload(self, *, restart: bool = False) -> None:
        systemctl("daemon-reload")
        if restart:
            systemctl("restart", self.unit)

    def report(self, expected: Sequence[DropIn] | None = None) -> UnitReport:
        async def look() -> UnitReport:
            async with connected(Scope.USER) as rig:
                return await rig.verifier.verify(self.unit, [self.ours] if expected is None else expected)

        return asyncio.run(look())

    def finding(self, aspect: str) -> Finding:
        found = [f for f in self.report().findings if f.aspect == aspect]
        assert found, f"nothing is said about {aspect}"
        return found[0]


@pytest.fixture
def planted() -> Iterator[Planted]:
    units = UserUnits(f"fault{os.getpid()}")
    made = Planted(units)
    yield made
    units.remove()
    for folder in units.folder.glob(f"{units.prefix}*.d"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def said(finding: Finding, verdict: Verdict, cause: str) -> None:
    assert finding.verdict is verdict, finding
    assert re.search(cause, finding.cause), finding
    assert finding.fix, finding


def test_the_healthy_unit_has_no_finding(planted: Planted) -> None:
    planted.install()
    verdicts = {f.aspect: f.verdict for f in planted.report().findings}
    assert verdicts == {
        "PrivateUsers": Verdict.EFFECTIVE,
        "NoNewPrivileges": Verdict.EFFECTIVE,
        "ProtectSystem": Verdict.EFFECTIVE,
        "LimitNOFILE": Verdict.EFFECTIVE,
        "SystemCallFilter": Verdict.NOT_PROVABLE,
    }


Plant = Callable[[Planted], None]


def typo(it: Planted) -> None:
    it.install()
    it.write("95-mine.conf", "[Service]\nProtectHme=yes\n")
    it.reload(restart=True)


def bad_value(it: Planted) -> None:
    it.install()
    it.write("95-mine.conf", "[Service]\nProtectHome=readonly\n")
    it.reload(restart=True)


def wrong_section(it: Planted) -> None:
    it.install()
    it.write("95-mine.conf", "[Unit]\nProtectHome=yes\n")
    it.reload(restart=True)


def later_file(it: Planted) -> None:
    it.install()
    it.write("99-local.conf", "[Service]\nProtectSystem=no\n")
    it.reload(restart=True)


def file_for_the_whole_type(it: Planted) -> None:
    it.install()
    folder = it.units.folder / "service.d"
    folder.mkdir(exist_ok=True)
    path = folder / "99-zz.conf"
    path.write_text("[Service]\nNoNewPrivileges=no\n")
    it.units._files.append(path)
    it.reload(restart=True)


def new_directory(it: Planted) -> None:
    systemctl("daemon-reload")
    systemctl("start", it.unit)
    it.write(it.file.name, it.ours.text)


def old_mtime(it: Planted) -> None:
    it.install()
    before = it.file.stat()
    it.write(it.file.name, it.ours.text.replace("LimitNOFILE=512", "LimitNOFILE=256"))
    os.utime(it.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    it.ours = directives(it.unit, Purpose.SECURITY, {"Service": [*SANDBOX[:3], ("LimitNOFILE", "256"), SANDBOX[4]]})


def emptied(it: Planted) -> None:
    it.install()
    it.file.write_text("")
    it.reload(restart=True)


def linked_to_null(it: Planted) -> None:
    it.install()
    it.file.unlink()
    it.file.symlink_to("/dev/null")
    it.reload(restart=True)


def deleted(it: Planted) -> None:
    it.install()
    it.file.unlink()
    it.reload(restart=True)


def edited(it: Planted) -> None:
    it.install()
    it.file.write_text(it.ours.text.replace("ProtectSystem=strict", "ProtectSystem=full"))
    it.reload(restart=True)


def masked(it: Planted) -> None:
    it.install()
    systemctl("stop", it.unit)
    fragment = it.units.folder / it.unit
    fragment.unlink()
    fragment.symlink_to("/dev/null")
    systemctl("daemon-reload")


def process_older_than_the_file(it: Planted) -> None:
    systemctl("daemon-reload")
    systemctl("start", it.unit)
    it.install(start=False)


def outside_of_the_sandbox(it: Planted) -> None:
    it.install(start=False)
    it.write("95-mine.conf", '[Service]\nExecStartPre=+/bin/sh -c "setsid sleep 1000 & exit 0"\n')
    it.reload(restart=True)


def private_users_taken_away(it: Planted) -> None:
    it.install()
    it.write("99-local.conf", "[Service]\nPrivateUsers=no\n")
    it.reload(restart=True)


def above_the_hard_limit(it: Planted) -> None:
    it.ours = directives(it.unit, Purpose.RESOURCES, {"Service": [("LimitNOFILE", "400000000")]})
    it.install()


def set_property_beside_ours(it: Planted) -> None:
    it.ours = directives(it.unit, Purpose.RESOURCES, {"Service": [("TasksMax", "77")]})
    it.install()
    systemctl("set-property", it.unit, "TasksMax=55")


def unit_file_replaced(it: Planted) -> None:
    it.install()
    (it.units.folder / it.unit).write_text(f"[Service]\n{SLEEP}\nRestrictRealtime=yes\n")


def reset_by_a_later_file(it: Planted) -> None:
    it.install()
    it.write("99-local.conf", "[Service]\nSystemCallFilter=\n")
    it.reload(restart=True)


def no_controller(it: Planted) -> None:
    it.install()
    it.write("95-mine.conf", "[Service]\nMemoryMax=80M\n")
    it.reload(restart=True)


def path_that_is_missing(it: Planted) -> None:
    it.install()
    it.write("95-mine.conf", "[Service]\nReadWritePaths=-/var/lib/not-there-yet\n")
    it.reload(restart=True)


def not_running(it: Planted) -> None:
    it.install()
    systemctl("stop", it.unit)


def does_not_start(it: Planted) -> None:
    it.install()
    it.write("95-mine.conf", "[Service]\nBindReadOnlyPaths=/no/such/source:/srv\nRestart=no\nType=exec\n")
    systemctl("daemon-reload")
    systemctl("restart", it.unit, check=False)


FAULTS: tuple[tuple[Plant, str, Verdict, str], ...] = (
    (typo, "ProtectHme", Verdict.NOT_LOADED, "(?i)unknown"),
    (bad_value, "ProtectHome", Verdict.NOT_LOADED, "readonly"),
    (wrong_section, "ProtectHome", Verdict.NOT_LOADED, r"\[Unit\]|section"),
    (later_file, "ProtectSystem", Verdict.OVERRIDDEN, "99-local.conf"),
    (file_for_the_whole_type, "NoNewPrivileges", Verdict.OVERRIDDEN, "service.d/99-zz.conf"),
    (new_directory, "ProtectSystem", Verdict.NOT_LOADED, "daemon-reload|has not read"),
    (old_mtime, "LimitNOFILE", Verdict.NOT_LOADED, "."),
    (emptied, "ProtectSystem", Verdict.NOT_LOADED, "empt"),
    (linked_to_null, "ProtectSystem", Verdict.NOT_LOADED, "/dev/null"),
    (deleted, "ProtectSystem", Verdict.NOT_INSTALLED, "."),
    (masked, "ProtectSystem", Verdict.NOT_LOADED, "masked"),
    (process_older_than_the_file, "NoNewPrivileges", Verdict.NEEDS_RESTART, "before"),
    (outside_of_the_sandbox, "NoNewPrivileges", Verdict.NOT_EFFECTIVE, r"sleep"),
    (private_users_taken_away, "PrivateUsers", Verdict.OVERRIDDEN, "99-local.conf"),
    (above_the_hard_limit, "LimitNOFILE", Verdict.NOT_ENFORCEABLE, "hard limit"),
    (unit_file_replaced, "RestrictRealtime", Verdict.NOT_LOADED, "."),
    (reset_by_a_later_file, "SystemCallFilter", Verdict.OVERRIDDEN, "99-local.conf"),
    (no_controller, "MemoryMax", Verdict.NOT_EFFECTIVE, "has no memory controller"),
    (path_that_is_missing, "ReadWritePaths", Verdict.NOT_PROVABLE, "not there|missing|does not exist|no such"),
    (not_running, "ProtectSystem", Verdict.NOT_RUNNING, "."),
    (does_not_start, "BindReadOnlyPaths", Verdict.NOT_EFFECTIVE, "226"),
)


@pytest.mark.parametrize(("plant", "aspect", "verdict", "cause"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_a_planted_fault_is_found(planted: Planted, plant: Plant, aspect: str, verdict: Verdict, cause: str) -> None:
    plant(planted)
    said(planted.finding(aspect), verdict, cause)


def test_an_edited_file_of_ours_is_drift(planted: Planted) -> None:
    edited(planted)
    drift = {f.aspect: f for f in planted.report().findings if f.verdict is Verdict.DRIFT}
    assert set(drift) == {str(planted.file), "ProtectSystem"}
    assert "says full" in drift["ProtectSystem"].cause
    assert drift["ProtectSystem"].declared == "strict"


def test_set_property_beside_ours_wins_until_the_next_reload(planted: Planted) -> None:
    set_property_beside_ours(planted)
    finding = planted.finding("TasksMax")
    assert finding.verdict in (Verdict.OVERRIDDEN, Verdict.NOT_EFFECTIVE, Verdict.NOT_LOADED)
    assert finding.declared == "77"
    assert "55" in finding.loaded + finding.effective
