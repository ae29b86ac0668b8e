"""The parts of the systemd edge that need no systemd: names, states, jobs, coalescing, errors."""

from __future__ import annotations

import asyncio

import pytest

from agentd.adapters.bus_errors import KINDS, reply_error
from agentd.adapters.bus_transport import bus_address, socket_path
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.systemd_jobs import Jobs
from agentd.adapters.systemd_props import checked_name, unit_path, unit_state
from agentd.adapters.systemd_watch import Changes
from agentd.errors import AgentdError, BusError
from agentd.types import ActiveState, JobResult, Scope, UnitState


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("dbus.service", "dbus_2eservice"),
        ("vllm-qwen.service", "vllm_2dqwen_2eservice"),
        ("a@7.service", "a_407_2eservice"),
        ("7z.service", "_37z_2eservice"),
        ("a_b.service", "a_5fb_2eservice"),
    ],
)
def test_object_paths(unit: str, path: str) -> None:
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{path}"


@pytest.mark.parametrize("unit", ["x.service", "a-b_c:d.service", "x@.service", "x@y.z.service", r"a\x2db.mount"])
def test_good_names(unit: str) -> None:
    assert checked_name(unit) == unit


@pytest.mark.parametrize("unit", ["", "x", ".service", "x.conf", "a b.service", "a/b.service", "ü.service", "x" * 256])
def test_bad_names(unit: str) -> None:
    with pytest.raises(AgentdError) as caught:
        checked_name(unit)
    assert caught.value.kind == "unit-invalid"


def test_state_of_unknown_and_missing_properties() -> None:
    assert unit_state("x.service", {}, {}) == UnitState("x.service", active_state=ActiveState.UNKNOWN, sub_state="")
    state = unit_state(
        "x.service",
        {
            "ActiveState": "from-the-future",
            "InvocationID": b"\x01\xff",
            "ActiveEnterTimestamp": 1_500_000,
            "LoadError": ["org.freedesktop.systemd1.NoSuchUnit", "Unit x.service not found."],
        },
        {"MainPID": 4},
    )
    assert (state.active_state, state.invocation_id, state.active_since) == (ActiveState.UNKNOWN, "01ff", 1.5)
    assert (state.load_error, state.main_pid) == ("Unit x.service not found.", 4)


def test_command_line_and_limit_of_a_service() -> None:
    command = ["/bin/vllm", ["/bin/vllm", "serve", "--gpu-memory-utilization", "${SHARE}", "$TOKEN"], False, 0, 0]
    state = unit_state(
        "x.service", {}, {"ExecStart": [command], "Environment": ["SHARE=0.8", "TOKEN=t"], "MemoryMax": 1 << 30}
    )
    assert state.exec_start == ("/bin/vllm", "serve", "--gpu-memory-utilization", "0.8", "$TOKEN")
    assert state.memory_max == 1 << 30
    assert unit_state("x.service", {}, {"MemoryMax": 2**64 - 1, "ExecStart": []}).memory_max is None


async def test_result_before_the_reply_is_kept_for_it() -> None:
    jobs = Jobs()
    with jobs.queueing():
        jobs.removed("/job/1", JobResult.DONE)
        jobs.removed("/job/2", JobResult.FAILED)
        ticket = jobs.ticket("x.service", "/job/1")
    assert await ticket.wait(1) is JobResult.DONE
    assert jobs.idle
    with jobs.queueing():
        later = jobs.ticket("x.service", "/job/1")
    assert not later.result.done(), "an old result must not answer for a new job"


async def test_shared_job_resolves_every_ticket() -> None:
    jobs = Jobs()
    tickets = []
    for _ in range(3):
        with jobs.queueing():
            tickets.append(jobs.ticket("x.service", "/job/1"))
    assert jobs.waiting == ("/job/1",)
    jobs.removed("/job/1", JobResult.CANCELED)
    assert [await ticket.wait(1) for ticket in tickets] == [JobResult.CANCELED] * 3
    assert jobs.idle


async def test_lost_jobs_and_late_signals() -> None:
    jobs = Jobs()
    with jobs.queueing():
        ticket = jobs.ticket("x.service", "/job/1")
    jobs.lose_all()
    jobs.removed("/job/1", JobResult.DONE)
    assert await ticket.wait(1) is JobResult.LOST


async def test_failed_request_leaves_no_trace() -> None:
    jobs = Jobs()

    def request() -> None:
        with jobs.queueing():
            jobs.removed("/job/9", JobResult.DONE)
            raise BusError("bus-timeout", "x")

    with pytest.raises(BusError):
        request()
    assert jobs.idle
    assert jobs._seen == {}


async def test_changes_come_once_per_unit_and_turn() -> None:
    changes, heard = Changes(), []
    changes.listen(heard.append)
    for _ in range(100):
        changes.mark("a.service")
        changes.mark("b.service")
    assert heard == []
    await asyncio.sleep(0)
    assert heard == ["a.service", "b.service"]
    changes.mark("a.service")
    changes.mark(None)
    await asyncio.sleep(0)
    assert heard[2:] == [None], "everything is to be read: single units are superfluous"


async def test_failing_listener_does_not_silence_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str | None) -> None:
        raise RuntimeError("a bug")

    changes, heard = Changes(), []
    changes.listen(fail)
    changes.listen(heard.append)
    changes.mark("a.service")
    await asyncio.sleep(0)
    assert heard == ["a.service"]
    assert "a listener of unit changes failed on a.service" in caplog.text


@pytest.mark.parametrize("name", KINDS)
def test_every_known_error_has_a_kind_and_keeps_its_name(name: str) -> None:
    error = reply_error(name, "Unit x.service is masked.", "start x.service")
    assert (error.kind, error.name) == (KINDS[name], name)
    assert error.message == "cannot start x.service: unit x.service is masked"


def test_other_errors() -> None:
    assert reply_error("a.b.C", "", "try").message == "cannot try: a.b.C"
    assert reply_error("a.b.C", "GPU on fire.\n", "try").message == "cannot try: GPU on fire"
    assert reply_error("a.b.C", "", "try").kind == "bus-error"
    assert reply_error("org.freedesktop.DBus.Error.Spawn.ChildExited", "x", "try").kind == "manager-gone"


def test_addresses() -> None:
    assert bus_address(Scope.USER, {"XDG_RUNTIME_DIR": "/run/user/7"}) == "unix:path=/run/user/7/bus"
    assert bus_address(Scope.USER, {}).startswith("unix:path=/run/user/")
    assert bus_address(Scope.SYSTEM, {}) == "unix:path=/run/dbus/system_bus_socket"
    assert socket_path("tcp:host=x;unix:path=/a%20b,guid=1") == "/a b"
    assert socket_path("unix:abstract=x") == "\0x"
    with pytest.raises(BusError, match="names no unix socket"):
        socket_path("autolaunch:")


def test_wrong_library_is_refused_when_wired_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTD_DBUS", "gdbus")
    with pytest.raises(AgentdError, match="cannot use the D-Bus library 'gdbus'"):
        SystemdControl()
