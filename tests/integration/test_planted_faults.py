"""Faults as they happen in the field, planted in a real user manager: each is found, with its own cause."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    def file(self) -> Path:
        return self.units.folder / self.ours.path

    def install(self, *, start: bool = True) -> Planted:
        self.write(self.file.name, self.ours.text)
        systemctl("daemon-reload")
        if start:
            systemctl("restart", self.unit)
        return self

    def write(self, name: str, text: str) -> Path:
        return self.units.put(f"{self.unit}.d/{name}", text)

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
    yield Planted(units)
    units.remove()


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


def beside(line: str, *, section: str = "Service", name: str = "95-mine.conf") -> Plant:
    """Somebody's own drop-in after ours, loaded, and the service restarted under it."""

    def plant(it: Planted) -> None:
        it.install()
        it.write(name, f"[{section}]\n{line}\n")
        it.reload(restart=True)

    return plant


def spoiled(spoil: Callable[[Path], object]) -> Plant:
    """Our file as somebody left it, loaded, and the service restarted under it."""

    def plant(it: Planted) -> None:
        it.install()
        spoil(it.file)
        it.reload(restart=True)

    return plant


def link_to_null(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/null")


def file_for_the_whole_type(it: Planted) -> None:
    it.install()
    it.units.put("service.d/99-zz.conf", "[Service]\nNoNewPrivileges=no\n")
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


def masked(it: Planted) -> None:
    it.install()
    systemctl("stop", it.unit)
    link_to_null(it.units.folder / it.unit)
    systemctl("daemon-reload")


def process_older_than_the_file(it: Planted) -> None:
    systemctl("daemon-reload")
    systemctl("start", it.unit)
    it.install(start=False)


def outside_of_the_sandbox(it: Planted) -> None:
    it.install(start=False)
    it.write("95-mine.conf", '[Service]\nExecStartPre=+/bin/sh -c "setsid sleep 1000 & exit 0"\n')
    it.reload(restart=True)


def above_the_hard_limit(it: Planted) -> None:
    it.ours = directives(it.unit, Purpose.RESOURCES, {"Service": [("LimitNOFILE", "400000000")]})
    it.install()


def unit_file_replaced(it: Planted) -> None:
    it.install()
    (it.units.folder / it.unit).write_text(f"[Service]\n{SLEEP}\nRestrictRealtime=yes\n")


def not_running(it: Planted) -> None:
    it.install()
    systemctl("stop", it.unit)


def does_not_start(it: Planted) -> None:
    it.install()
    it.write("95-mine.conf", "[Service]\nBindReadOnlyPaths=/no/such/source:/srv\nRestart=no\nType=exec\n")
    systemctl("daemon-reload")
    systemctl("restart", it.unit, check=False)


LATER = "99-local.conf"
MISSING = "ReadWritePaths=-/var/lib/not-there-yet"
FAULTS: Mapping[str, tuple[Plant, str, Verdict, str]] = {
    "typo": (beside("ProtectHme=yes"), "ProtectHme", Verdict.NOT_LOADED, "(?i)unknown"),
    "bad_value": (beside("ProtectHome=readonly"), "ProtectHome", Verdict.NOT_LOADED, "readonly"),
    "wrong_section": (
        beside("ProtectHome=yes", section="Unit"), "ProtectHome", Verdict.NOT_LOADED, r"\[Unit\]|section",
    ),
    "later_file": (beside("ProtectSystem=no", name=LATER), "ProtectSystem", Verdict.OVERRIDDEN, LATER),
    "file_for_the_whole_type": (
        file_for_the_whole_type, "NoNewPrivileges", Verdict.OVERRIDDEN, "service.d/99-zz.conf",
    ),
    "new_directory": (new_directory, "ProtectSystem", Verdict.NOT_LOADED, "daemon-reload|has not read"),
    "old_mtime": (old_mtime, "LimitNOFILE", Verdict.NOT_LOADED, "."),
    "emptied": (spoiled(lambda file: file.write_text("")), "ProtectSystem", Verdict.NOT_LOADED, "empt"),
    "linked_to_null": (spoiled(link_to_null), "ProtectSystem", Verdict.NOT_LOADED, "/dev/null"),
    "deleted": (spoiled(Path.unlink), "ProtectSystem", Verdict.NOT_INSTALLED, "."),
    "masked": (masked, "ProtectSystem", Verdict.NOT_LOADED, "masked"),
    "process_older_than_the_file": (
        process_older_than_the_file, "NoNewPrivileges", Verdict.NEEDS_RESTART, "before",
    ),
    "outside_of_the_sandbox": (outside_of_the_sandbox, "NoNewPrivileges", Verdict.NOT_EFFECTIVE, r"sleep"),
    "private_users_taken_away": (beside("PrivateUsers=no", name=LATER), "PrivateUsers", Verdict.OVERRIDDEN, LATER),
    "above_the_hard_limit": (above_the_hard_limit, "LimitNOFILE", Verdict.NOT_ENFORCEABLE, "hard limit"),
    "unit_file_replaced": (unit_file_replaced, "RestrictRealtime", Verdict.NOT_LOADED, "."),
    "reset_by_a_later_file": (
        beside("SystemCallFilter=", name=LATER), "SystemCallFilter", Verdict.OVERRIDDEN, LATER,
    ),
    "no_controller": (beside("MemoryMax=80M"), "MemoryMax", Verdict.NOT_EFFECTIVE, "has no memory controller"),
    "path_that_is_missing": (
        beside(MISSING), "ReadWritePaths", Verdict.NOT_PROVABLE, "not there|missing|does not exist|no such",
    ),
    "not_running": (not_running, "ProtectSystem", Verdict.NOT_RUNNING, "."),
    "does_not_start": (does_not_start, "BindReadOnlyPaths", Verdict.NOT_EFFECTIVE, "226"),
}  # fmt: skip


@pytest.mark.parametrize(("plant", "aspect", "verdict", "cause"), FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_found(planted: Planted, plant: Plant, aspect: str, verdict: Verdict, cause: str) -> None:
    plant(planted)
    said(planted.finding(aspect), verdict, cause)


def test_an_edited_file_of_ours_is_drift(planted: Planted) -> None:
    planted.install()
    planted.file.write_text(planted.ours.text.replace("ProtectSystem=strict", "ProtectSystem=full"))
    planted.reload(restart=True)
    drift = {f.aspect: f for f in planted.report().findings if f.verdict is Verdict.DRIFT}
    assert set(drift) == {str(planted.file), "ProtectSystem"}
    assert "says full" in drift["ProtectSystem"].cause
    assert drift["ProtectSystem"].declared == "strict"


def test_set_property_beside_ours_wins_until_the_next_reload(planted: Planted) -> None:
    planted.ours = directives(planted.unit, Purpose.RESOURCES, {"Service": [("TasksMax", "77")]})
    planted.install()
    systemctl("set-property", planted.unit, "TasksMax=55")
    finding = planted.finding("TasksMax")
    assert finding.verdict in (Verdict.OVERRIDDEN, Verdict.NOT_EFFECTIVE, Verdict.NOT_LOADED)
    assert finding.declared == "77"
    assert "55" in finding.loaded + finding.effective
