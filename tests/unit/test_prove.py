"""The prover: what it gives its canaries, what it makes of their reports, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from agentd.canary import source
from agentd.errors import AgentdError, BusError
from agentd.evidence import HostEvidence, UnitView
from agentd.managers.hardening.prove import Prover
from agentd.managers.hardening.prove_report import parse
from agentd.ports import JournalReader, UnitControl
from agentd.ports_hardening import TransientProperty, UnitQuery
from agentd.types import JobResult, Scope, UnitState

HOST = HostEvidence(scope=Scope.USER, uid=1000, home="/home/user", runtime_dir="/run/user/1000")
DEFAULTS: dict[str, object] = {
    "RestrictRealtime": False,
    "SystemCallFilter": [False, []],
    "StateDirectory": [],
    "RuntimeDirectory": [],
    "KeyringMode": "inherit",
    "Result": "success",
}


class Machine:
    """systemd and the files of reports. `acts`: how each act ends, by default it is allowed."""

    def __init__(self) -> None:
        self.started: list[dict[str, object]] = []
        self.names: list[str] = []
        self.loaded: dict[str, dict[str, object]] = {}
        self.files: dict[str, str] = {}
        self.refused: set[str] = set()
        self.ignored: set[str] = set()
        self.fails: dict[str, dict[str, object]] = {}
        """A property that makes the start fail -> what the properties say then."""
        self.hangs = False
        self.busy = asyncio.Event()
        self.whole = True

    def program(self) -> str:
        return "PROGRAM"

    def addresses(self) -> tuple[str, ...]:
        return ("127.0.0.1", "10.1.2.3")

    async def create(self, unit: str) -> str:
        self.files[unit] = ""
        return f"/run/canary/{unit}"

    async def read(self, unit: str) -> str:
        return self.files[unit]

    async def remove(self, unit: str) -> None:
        del self.files[unit]

    async def units(self) -> tuple[str, ...]:
        return tuple(self.files)

    async def start_transient(self, unit: str, properties: Sequence[TransientProperty]) -> Machine:
        values = {name: value for name, _, value in properties}
        bad = self.refused & values.keys()
        if bad:
            raise BusError("bus-invalid", f"cannot start {unit}: Cannot set property {bad.pop()}, or unknown property.")
        self.names.append(unit)
        self.started.append(values)
        kept = {name: value for name, value in values.items() if name not in self.ignored}
        self.loaded[unit] = {**DEFAULTS, **kept}
        failure = next((self.fails[name] for name in values if name in self.fails), None)
        if failure is not None:
            self.loaded[unit] |= failure
        else:
            self.files[unit] = self._report(values)
        return self

    def _report(self, values: Mapping[str, object]) -> str:
        text = cast("bytes", values["StandardInputData"]).decode()
        found = re.search(r"json\.loads\('(.*)'\)", text)
        assert found
        acts = json.loads(found[1])
        lines = [json.dumps({"act": act, "allowed": True, "errno": "", "detail": "x"}) for act in acts]
        return "\n".join([*lines, json.dumps({"done": len(acts)})] if self.whole else lines)

    async def wait(self, timeout: float) -> JobResult:
        if self.hangs:
            self.busy.set()
            await asyncio.get_running_loop().create_future()
        return JobResult.DONE

    async def properties(self, unit: str) -> Mapping[str, object]:
        return self.loaded[unit]

    async def stop(self, unit: str) -> Machine:
        self.hangs = False
        if unit not in self.loaded:
            raise BusError("unit-not-found", f"no unit {unit}")
        return self

    async def reset_failed(self, unit: str) -> None:
        if unit not in self.loaded:
            raise BusError("unit-not-found", f"no unit {unit}")
        del self.loaded[unit]

    async def tail(self, unit: str, **_: object) -> tuple[str, ...]:
        return (f"{unit} said this",)


def prover(machine: Machine, deadline: float = 5.0) -> Prover:
    control, query, journal = cast("UnitControl", machine), cast("UnitQuery", machine), cast("JournalReader", machine)
    return Prover(control, query, journal, machine, deadline=deadline)


def view(**properties: object) -> UnitView:
    return UnitView(UnitState("a@b.service"), {**DEFAULTS, "Slice": "x.slice", **properties})


def clean(machine: Machine) -> bool:
    return not machine.files and not machine.loaded


async def test_the_same_directives_and_none() -> None:
    machine = Machine()
    found = await prover(machine).prove(view(RestrictRealtime=True, User="ai"), HOST)
    plain, full = machine.started
    assert "RestrictRealtime" not in plain
    assert full["RestrictRealtime"] is True
    for one in (plain, full):
        assert (one["User"], one["Slice"]) == ("ai", "x.slice")
    assert found.given == ("RestrictRealtime",)
    assert [r.act for r in found.acts] == [r.act for r in found.baseline]
    assert (found.unfiltered, found.failed) == ((), "")
    assert all(re.fullmatch(r"agentd-canary-a-b-[0-9a-f]{8}\.service", name) for name in machine.names)
    assert clean(machine)


async def test_a_third_one_without_the_filter() -> None:
    machine = Machine()
    found = await prover(machine).prove(view(RestrictRealtime=True, SystemCallFilter=[True, ["read"]]), HOST)
    filters = [("SystemCallFilter" in one, "RestrictRealtime" in one) for one in machine.started]
    assert filters == [(False, False), (True, True), (False, True)]
    assert found.unfiltered
    assert clean(machine)


async def test_what_belongs_to_the_service_is_never_given() -> None:
    machine = Machine()
    seen = view(StateDirectory=["a"], RuntimeDirectory=["b"], Environment=["SECRET=1"], RestrictRealtime=True)
    found = await prover(machine).prove(seen, HOST)
    assert not {"StateDirectory", "RuntimeDirectory", "Environment"} & machine.started[1].keys()
    assert [text.partition(":")[0] for text in found.left_out] == ["StateDirectory", "RuntimeDirectory"]


@pytest.mark.parametrize(("flags", "expected"), [([], False), (["privileged", "ignore-failure"], True)])
async def test_the_prefix_of_the_command_counts(flags: list[str], expected: bool) -> None:
    machine = Machine()
    await prover(machine).prove(view(ExecStartEx=[["/bin/x", ["x"], flags]]), HOST)
    ((_, argv, given),) = cast("Any", machine.started[0]["ExecStartEx"])
    assert argv == ["/usr/bin/python3", "-I", "-S", "-"]
    assert given == (["privileged", "no-env-expand"] if expected else ["no-env-expand"])


async def test_what_systemd_refuses_or_ignores_is_not_given() -> None:
    machine = Machine()
    machine.refused = {"RestrictRealtime"}
    machine.ignored = {"LockPersonality"}
    found = await prover(machine).prove(view(RestrictRealtime=True, LockPersonality=True, PrivateTmp=True), HOST)
    assert found.given == ("PrivateTmp",)
    assert set(found.left_out) == {
        "RestrictRealtime: systemd did not take it over",
        "LockPersonality: systemd did not take it over",
    }
    assert clean(machine)


async def test_a_refusal_that_names_nothing_is_told() -> None:
    machine = Machine()
    machine.refused = {"Slice"}
    with pytest.raises(AgentdError, match="Slice"):
        await prover(machine).prove(view(RestrictRealtime=True), HOST)
    assert clean(machine)


@pytest.mark.parametrize(
    ("told", "failed"),
    [
        ({"Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 226}, "226/NAMESPACE: cannot set up"),
        ({"Result": "signal", "ExecMainCode": 2, "ExecMainStatus": 31}, "killed by signal 31"),
        ({"Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 1}, "exit status 1, result exit-code"),
    ],
)
async def test_a_canary_that_fails(told: dict[str, object], failed: str) -> None:
    machine = Machine()
    machine.fails["RestrictRealtime"] = told
    found = await prover(machine).prove(view(RestrictRealtime=True), HOST)
    assert found.failed.startswith(failed)
    assert found.exit_status == told["ExecMainStatus"]
    assert found.journal == (f"{machine.names[-1]} said this",)
    assert (found.acts, found.given) == ((), ())
    assert clean(machine)


async def test_a_report_that_is_not_whole() -> None:
    machine = Machine()
    machine.whole = False
    found = await prover(machine).prove(view(RestrictRealtime=True), HOST)
    assert found.failed.startswith("a canary without any directive did not run either")
    assert clean(machine)


async def test_cancelled() -> None:
    machine = Machine()
    machine.hangs = True
    task = asyncio.create_task(prover(machine).prove(view(RestrictRealtime=True), HOST))
    await machine.busy.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clean(machine)


async def test_what_a_killed_agentd_left_behind() -> None:
    machine = Machine()
    machine.files = {"agentd-canary-x-00000000.service": "", "agentd-canary-y-00000000.service": ""}
    machine.loaded["agentd-canary-x-00000000.service"] = {}
    await prover(machine).prove(view(), HOST)
    assert clean(machine)


async def test_addresses_only_for_a_policy() -> None:
    machine = Machine()
    found = await prover(machine).prove(view(IPAddressDeny=[[2, bytes(4), 0]]), HOST)
    assert {r.act for r in found.acts if r.act.startswith("send:")} == {"send:127.0.0.1", "send:10.1.2.3"}


GOOD = '{"act": "realtime", "allowed": true, "errno": "", "detail": ""}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD,
        f'{GOOD}\n{{"done": 2}}',
        '{"done": "1"}',
        "[]",
        "nonsense",
        '{"act": 1, "allowed": true, "errno": "", "detail": ""}\n{"done": 1}',
        '{"act": "a", "allowed": "yes", "errno": "", "detail": ""}\n{"done": 1}',
    ],
)
def test_a_report_that_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_report() -> None:
    found = parse(f'{GOOD}\n{{"done": 1}}\n')
    assert found is not None
    assert [(r.act, r.allowed) for r in found] == [("realtime", True)]


def test_the_program_is_one_text_without_imports_of_ours() -> None:
    text = source()
    assert "import agentd" not in text
    assert "from agentd" not in text
    compile(text, "canary", "exec")
