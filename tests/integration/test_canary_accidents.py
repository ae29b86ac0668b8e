"""The canary where systemd lies, where its prover dies, and where the unit has something to lose."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from integration.proofs import SLEEP, name_of, prepare, text_of
from integration.proved import RUNTIME, Bench
from userunits import UserUnits, systemctl

from agentd.adapters.canary_reports import CanaryReports
from agentd.adapters.systemd import SystemdControl
from agentd.evidence import CanaryReport
from agentd.findings import Finding, Verdict
from agentd.ports_hardening import TransientProperty
from agentd.types import Scope

SOME = ("restrictrealtime", "memorydenywriteexecute", "restrictnamespaces", "lockpersonality")


@pytest.fixture(scope="module")
def units() -> Iterator[UserUnits]:
    prepare()
    made = UserUnits("proof")
    for which in SOME:
        made.write(f"{which}.service", text_of(which))
    systemctl("daemon-reload")
    systemctl("start", *map(name_of, SOME))
    yield made
    made.remove()


class Liar:
    """systemd, but it passes `forgotten` over when it starts a unit; `admits`: it says so when asked."""

    def __init__(self, control: SystemdControl, forgotten: str, value: object, *, admits: bool) -> None:
        self._control = control
        self._forgotten = forgotten
        self._value = value
        self._admits = admits
        self._had: set[str] = set()

    async def start_transient(self, unit: str, properties: Sequence[TransientProperty]) -> Any:
        if any(name == self._forgotten for name, _, _ in properties):
            self._had.add(unit)
        return await self._control.start_transient(unit, [p for p in properties if p[0] != self._forgotten])

    async def properties(self, unit: str) -> Mapping[str, object]:
        found = await self._control.properties(unit)
        return {**found, self._forgotten: self._value} if unit in self._had and not self._admits else found

    async def manager(self) -> Mapping[str, object]:
        return await self._control.manager()


@asynccontextmanager
async def connected() -> AsyncIterator[SystemdControl]:
    control = SystemdControl(Scope.USER)
    await control.start_up()
    try:
        yield control
    finally:
        await control.close()


@pytest.mark.parametrize(
    ("key", "value"), [("RestrictRealtime", True), ("MemoryDenyWriteExecute", True), ("RestrictNamespaces", 0)]
)
@pytest.mark.parametrize("admits", [True, False])
async def test_a_directive_that_is_not_enforced(units: UserUnits, key: str, value: object, admits: bool) -> None:
    async with connected() as control:
        bench = Bench(control, Liar(control, key, value, admits=admits))
        report, findings = await bench.prove(name_of(key.lower()))
    assert (key in report.given) is not admits
    expected = Verdict.NOT_PROVABLE if admits else Verdict.NOT_EFFECTIVE
    assert {f.verdict for f in findings if f.aspect == key} == {expected}


class Addressed(CanaryReports):
    """A machine with a second address."""

    def addresses(self) -> tuple[str, ...]:
        return ("127.0.0.1", "10.99.0.1")


@pytest.fixture
def second_address() -> Iterator[None]:
    if os.getuid() == 0:
        subprocess.run(["ip", "address", "add", "10.99.0.1/32", "dev", "lo"], check=True, timeout=10)
    yield
    if os.getuid() == 0:
        subprocess.run(["ip", "address", "del", "10.99.0.1/32", "dev", "lo"], check=True, timeout=10)


async def test_policies_that_only_the_manager_of_root_enforces(units: UserUnits, second_address: None) -> None:
    """By BPF programs on the unit's cgroup, which nobody else can even see."""
    policies = ("IPAddressDeny", "IPAddressAllow", "DevicePolicy")
    unit = units.service("policies", SLEEP, "IPAddressDeny=any", "IPAddressAllow=localhost", "DevicePolicy=closed")
    systemctl("daemon-reload")
    systemctl("start", unit)
    async with connected() as control:
        report, findings = await Bench(control, reports=Addressed(f"{RUNTIME}/agentd")).prove(unit)
    assert report.failed == ""
    effective = {f.aspect: f.effective for f in findings if f.verdict is Verdict.EFFECTIVE and f.aspect in policies}
    assert set(effective) == (set(policies) if os.getuid() == 0 else set())
    assert os.getuid() != 0 or effective["IPAddressDeny"] == "send to 10.99.0.1: EPERM"


async def test_the_running_services_own_folder_stays(units: UserUnits) -> None:
    unit = units.service("folder", SLEEP, "RuntimeDirectory=proof-folder", "RestrictRealtime=yes")
    systemctl("daemon-reload")
    systemctl("start", unit)
    async with connected() as control:
        report, _ = await Bench(control).prove(unit)
    assert (Path(RUNTIME) / "proof-folder").is_dir()
    assert [text.partition(":")[0] for text in report.left_out] == ["RuntimeDirectory"]


def killed_in_the_middle(unit: str) -> str:
    """A prover of another process that is killed once a canary of its is there: the canary's name."""
    code = (
        "import asyncio, os, signal, sys\n"
        "from integration import proved\n"
        "from agentd.adapters.systemd import SystemdControl\n"
        "real = SystemdControl.start_transient\n"
        "async def fatal(self, unit, properties):\n"
        "    await real(self, unit, properties)\n"
        "    print(unit, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "SystemdControl.start_transient = fatal\n"
        "asyncio.run(proved.prove([sys.argv[1]]))\n"
    )
    path = f"{Path(__file__).resolve().parents[2]}/tests"
    argv = [sys.executable, "-c", code, unit]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    return done.stdout.strip()


@pytest.mark.allows_blocking
async def test_what_a_killed_prover_left_is_taken_away(units: UserUnits) -> None:
    left = killed_in_the_middle(name_of("restrictrealtime"))
    assert systemctl("show", "-P", "LoadState", left) == "loaded"
    async with connected() as control:
        report, _ = await Bench(control).prove(name_of("restrictrealtime"))
    assert report.failed == ""
    assert systemctl("show", "-P", "LoadState", left) == "not-found"
    assert list((Path(RUNTIME) / "agentd/canary").iterdir()) == []


class Witness(Liar):
    """Tells when a canary is there."""

    def __init__(self, control: SystemdControl) -> None:
        super().__init__(control, "", None, admits=True)
        self.started = asyncio.Event()

    async def start_transient(self, unit: str, properties: Sequence[TransientProperty]) -> Any:
        job = await super().start_transient(unit, properties)
        self.started.set()
        return job


async def test_cancelled_in_the_middle(units: UserUnits) -> None:
    async with connected() as control:
        witness = Witness(control)
        bench = Bench(control, witness)
        task = asyncio.create_task(bench.prove(name_of("restrictrealtime")))
        await witness.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await bench.reports.units() == ()
    assert systemctl("list-units", "--all", "--no-legend", "agentd-canary-*") == ""


async def test_two_at_once_take_turns(units: UserUnits) -> None:
    async with connected() as control:
        bench = Bench(control)
        answers: list[tuple[CanaryReport, tuple[Finding, ...]]] = list(
            await asyncio.gather(*(bench.prove(name_of(which)) for which in ("restrictrealtime", "lockpersonality")))
        )
    assert [report.failed for report, _ in answers] == ["", ""]
