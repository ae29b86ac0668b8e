"""agentctl against the real API server with plain values behind it; in this process, so that it is quick."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.cli import Run
from fakes.operations import NOW
from fakes.serving import Served

from agentd import types, wire
from agentd.api.operations import Check, ConfigStatus
from agentd.cli import durations, exits
from agentd.cli.commands import COMMANDS, find
from agentd.cli.context import Context
from agentd.cli.follow import finish
from agentd.cli.logs import arguments
from agentd.cli.parser import parse
from agentd.cli.terminal import clean
from agentd.errors import AgentdError, ConfigError, ConfigProblem
from agentd.gpu import GpuSnapshot
from agentd.types import ExitCode, Health, Outcome, SlotStatus
from agentd.wire import plain

# -- looking ------------------------------------------------------------------------------------------------------


def test_status(server: Served, run: Run) -> None:
    result = run("status")
    assert result.code == 0
    assert result.out.startswith("agentd 0.1.0: ready, user scope, up ")
    assert "slot gpu0: qwen, active\n" in result.out
    assert "vllm-dolphin.service" in result.out
    assert "directives not in effect: 1 of litellm.service; see: agentctl dropins verify\n" in result.out
    assert run("status", "--json").json["slots"][0]["resident"] == "qwen"


def test_status_shows_what_needs_attention(server: Served, run: Run) -> None:
    def break_things(ops: Any) -> None:
        ops.checks[1] = Check("bus", ok=False, detail="gone")
        ops.config_state = ConfigStatus(valid=False, loaded=NOW, attempted=NOW)
        cooldowns = {"dolphin": 4e9}
        ops.slot = SlotStatus(
            "gpu0", "degraded", ("qwen", "dolphin"), cooldowns=cooldowns, cause="qwen did not come back"
        )
        ops.service_list[0] = replace(ops.service_list[0], health=Health.FAILED, cause="out of\x1b[2J memory")
        ops.service_list[2] = replace(ops.service_list[2], crash_loop=True)

    assert run("status", "--check").code == 0
    server.call(break_things)
    result = run("status", "--check")
    assert result.code == ExitCode.FAILED
    assert run("status").code == 0
    assert "! agentd: bus: gone\n" in result.out
    assert "! agentd: the configuration's files are not valid" in result.out
    assert "! slot gpu0: degraded: qwen did not come back\n" in result.out
    assert "! qwen: failed: out of [2J memory\n" in result.out
    assert "! redis: crash loop\n" in result.out
    assert "dolphin failed a moment ago; refused for" in result.out
    assert "slot gpu0: empty, degraded\n" in result.out


def test_lists(server: Served, run: Run) -> None:
    assert [line.split()[:2] for line in run("models").out.splitlines()[1:]] == [["*", "qwen"], ["dolphin", "gpu0"]]
    assert "redis    store" in run("services").out
    assert "Test GPU  8.0 GiB  16.0 GiB  24.0 GiB" in run("gpu").out
    assert [m["name"] for m in run("models", "--json").json] == ["qwen", "dolphin"]
    assert len(run("services", "--json").json) == 3
    assert run("gpu", "--json").json["source"] == "nvml"
    server.call(lambda ops: setattr(ops, "gpu", GpuSnapshot()))
    assert "no NVIDIA GPU" in run("gpu").out
    server.call(lambda ops: setattr(ops, "gpu", GpuSnapshot("nvml", error="driver mismatch")))
    assert run("gpu").code == ExitCode.FAILED


def test_events(server: Served, run: Run) -> None:
    for n in range(3):
        server.call(lambda ops, n=n: ops.emit("unit.state", "qwen", f"fact {n}"))
    lines = run("events", "-n", "2").out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["qwen: fact 1", "qwen: fact 2"]
    assert [e["seq"] for e in run("events", "--json").json] == [1, 2, 3]


def test_version(server: Served, run: Run) -> None:
    assert run("version").out == "agentctl 0.1.0\nagentd 0.1.0 (running)\n"
    assert run("--version").out == run("version").out
    assert run("version", "--socket", "/nonexistent/s").code == 0


# -- switching ----------------------------------------------------------------------------------------------------


def test_switch_shows_each_phase_once_and_its_end(server: Served, run: Run) -> None:
    result = run("switch-model", "dolphin", "--drain", "1min 30s", "--on-busy", "refuse", "--no-rollback", "--force")
    assert result.code == 0
    request = server.ops.calls[0][1]
    assert request == wire.SwitchRequest("dolphin", 90.0, "refuse", force=True, rollback=False)
    assert result.out.splitlines()[-1] == "qwen is active (3.50 s)"


def test_switch_follows_the_stream(server: Served, run: Run) -> None:
    import threading

    server.call(lambda ops: setattr(ops, "instant", False))
    driver = threading.Thread(target=server.follow_through)
    driver.start()
    result = run("switch-model", "dolphin")
    driver.join()
    lines = result.out.splitlines()
    assert lines[0] == "switching qwen to dolphin (slot gpu0, change s0000000001)"
    phases = [line.split()[0] for line in lines[1:-1]]
    assert phases == ["precheck", "drain", "release", "evict", "wait-vram", "start", "wait-ready", "verify"]
    assert lines[1].split(maxsplit=3) == ["precheck", "0.25", "s", "precheck is over"]


@pytest.mark.parametrize("outcome", [o for o in Outcome if wire.EXIT_CODES[o] is not ExitCode.OK])
def test_outcomes_have_their_exit_codes(server: Served, run: Run, outcome: Outcome) -> None:
    server.call(lambda ops: setattr(ops, "end", (outcome, "dolphin did not start", "CUDA out of memory")))
    result = run("switch-model", "dolphin")
    assert result.code == wire.EXIT_CODES[outcome]
    assert result.err == "agentctl: dolphin did not start\n  cause: CUDA out of memory\n"
    result = run("switch-model", "dolphin", "--json")
    assert (result.code, result.json["outcome"]) == (wire.EXIT_CODES[outcome], outcome.value)


def test_dry_run_touches_nothing(server: Served, run: Run) -> None:
    result = run("switch-model", "dolphin", "--dry-run")
    assert result.code == ExitCode.REFUSED
    assert "  failed  vram  needs 14G, 2G would be free\n" in result.out
    assert "expected to take about 42.0 s" in result.out
    assert [name for name, *_ in server.ops.calls] == ["plan"]
    assert run("switch-model", "dolphin", "--dry-run", "--json").json["ok"] is False


def test_busy_slot_is_exit_8_and_names_the_change(server: Served, run: Run) -> None:
    server.call(lambda ops: setattr(ops, "instant", False))
    assert run("switch-model", "dolphin", "--no-wait").out.startswith("change s0000000001 has begun; follow it with:")
    assert "is already under way" in run("switch-model", "dolphin", "--no-wait").out
    result = run("switch-model", "qwen")
    assert result.code == ExitCode.BUSY
    assert "s0000000001" in result.err
    error = json.loads(run("switch-model", "qwen", "--json").err)["error"]
    assert (error["kind"], "s0000000001" in error["message"]) == ("conflict", True)


def test_waiting_can_be_cut_short(server: Served, run: Run) -> None:
    server.call(lambda ops: setattr(ops, "instant", False))
    result = run("switch-model", "dolphin", "--timeout", "50ms")
    assert result.code == ExitCode.FAILED
    assert "still running: change s0000000001 goes on without us" in result.err
    assert server.ops.change_list["s0000000001"].finished is None


def test_a_change_of_no_slot_is_not_said_to_be_cancellable(
    server: Served, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.call(lambda ops: setattr(ops, "instant", False))
    assert "cancel it: agentctl switch cancel" in run("switch-model", "dolphin", "--timeout", "50ms").err
    running = server.ops.change_list["s0000000001"]
    ctx = Context(argparse.Namespace(json=False), "profile use")
    finish(ctx, plain(replace(running, id="p1", kind="profile", slot="")))
    assert capsys.readouterr().err.splitlines()[1] == "  follow it with: agentctl switch status p1 --follow"


def test_switch_status_and_cancel(server: Served, run: Run) -> None:
    assert "no change yet" in run("switch", "status").out
    assert run("switch", "cancel").err == "agentctl: cannot cancel: no change is under way\n"
    assert run("switch", "status", "-f").out == "no change is under way\n"
    server.call(lambda ops: setattr(ops, "instant", False))
    run("switch-model", "dolphin", "--no-wait")
    assert "running for" in run("switch", "status", "s0000000001").out
    server.call(lambda ops: setattr(ops, "slot", replace(ops.slot, change="s0000000001")))
    result = run("switch", "cancel")
    assert result.code == 0
    assert "cancelled; qwen still serves" in result.err
    assert run("switch", "status", "s0000000001", "--follow").code == ExitCode.CANCELLED
    assert "cancelled: cancelled; qwen still serves" in run("switch", "status", "s0000000001").out
    assert run("switch", "status", "--json").json[0]["id"] == "s0000000001"
    assert run("switch", "status", "nope").code == ExitCode.USAGE


def test_unload_and_lease(server: Served, run: Run) -> None:
    assert run("unload", "--slot", "gpu0", "--drain", "0").code == 0
    assert run("lease", "--for", "2h").code == 0
    assert run("lease", "end").out == "done; there was no model to bring back\n"
    assert server.ops.calls == [
        ("unload", wire.UnloadRequest("gpu0", 0.0)),
        ("lease", wire.LeaseRequest(7200.0)),
        ("end_lease", ""),
    ]
    assert run("lease").code == ExitCode.USAGE
    assert run("lease", "--for", "0").code == ExitCode.USAGE


def test_service_actions_and_reload(server: Served, run: Run) -> None:
    assert run("restart", "redis").out == "redis is restarted (redis.service), now ready\n"
    assert server.ops.calls == [("service_action", "redis", "restart")]
    assert run("stop", "reddis").err == 'agentctl: no service "reddis"\n  did you mean "redis"?\n'
    assert "in force (/etc/agentd/agentd.toml)" in run("reload").out
    problem = ConfigError([ConfigProblem("a.toml", "slots.x", "unknown key", line=3)])
    server.call(lambda ops: ops.fail.update(reload=problem))
    result = run("reload")
    assert result.code == ExitCode.FAILED
    assert "a.toml:3: slots.x: unknown key" in result.err


# -- errors -------------------------------------------------------------------------------------------------------


def test_no_daemon(run: Run, tmp_path: Path) -> None:
    for command in (["status"], ["switch-model", "qwen"], ["events", "-f"], ["reload"]):
        result = run(*command)
        assert result.code == ExitCode.FAILED
        assert result.err.startswith(f"agentctl: cannot reach agentd at {tmp_path}/none.sock: no such file")
        assert result.err.endswith("  start it with: systemctl --user start agentd\n")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["swich-model", "x"], 'did you mean "switch-model"?'),
        (["switch", "qwen"], 'did you mean "agentctl switch-model qwen"?'),
        (["switch"], '"agentctl switch status" or "agentctl switch cancel"'),
        (["config"], '"agentctl config show" or "agentctl config check"'),
        (["help", "stats"], 'did you mean "status"?'),
        (["switch-model"], "the following arguments are required: MODEL"),
        (["status", "--jsn"], "unrecognized arguments: --jsn"),
        (["switch-model", "a", "--drain", "soon"], '"soon" is not a time; write it like 90s'),
        (["switch-model", "a", "--on-busy", "wait"], "invalid choice: 'wait'"),
        (["events", "-n", "-3"], "is not a number from 0 to 10000"),
        (["events", "-n", "x"], "is not a number from 0 to 10000"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
        (["wait-ready", "x", "--url", "ftp://a"], 'cannot ask "ftp://a"'),
        (["wait-ready", "x", "--url", "http://a:1", "--expect", "ok"], '--expect "ok"'),
    ],
)
def test_usage_errors_are_exit_2_and_say_what_to_do(run: Run, argv: list[str], expected: str) -> None:
    result = run(*argv)
    assert result.code == ExitCode.USAGE
    assert expected in result.err


def test_a_bug_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.cli.version.__version__", None)
    monkeypatch.setattr("agentd.cli.version.Context", None)
    monkeypatch.setattr("agentd.cli.version.run", lambda ctx: 1 // 0)
    result = run("version")
    assert result.code == ExitCode.FAILED
    assert result.err.startswith("agentctl: internal error: ZeroDivisionError")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_every_command_has_help_with_an_example(run: Run, command: Any) -> None:
    for argv in ([*command.words, "--help"], ["help", *command.words]):
        result = run(*argv)
        assert result.code == 0
        assert f"agentctl {command.name}" in result.out
        assert "example" in result.out
        if not command.own_parser:
            assert "--json" in result.out


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.own_parser], ids=lambda c: c.name)
def test_examples_are_valid(command: Any) -> None:
    import shlex

    for example in command.examples:
        words = shlex.split(example.split("|")[0].split(">")[0])
        found, rest = find(words[1:])
        assert found is not None
        assert (words[0], found.words[0]) == ("agentctl", command.words[0])
        parse(found, rest)


def test_overview_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(f"  {c.name} " in result.out for c in COMMANDS)
    assert run().code == ExitCode.USAGE


def test_common_options_may_stand_first(server: Served, run: Run, tmp_path: Path) -> None:
    assert run("--json", "--socket", str(tmp_path / "agentd.sock"), "models").json[0]["name"] == "qwen"
    assert run("--socket=/nonexistent/s", "models").code == ExitCode.FAILED


# -- pieces -------------------------------------------------------------------------------------------------------


def test_exit_codes_agree_with_the_shared_types() -> None:
    for code in ExitCode:
        assert getattr(exits, code.name) == code.value
    assert {Outcome(name): ExitCode(code) for name, code in exits.OUTCOMES.items()} == dict(wire.EXIT_CODES)
    assert {f.name for f in types.Change.__dataclass_fields__.values()} >= {"exit_code", "outcome"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5h", 5400),
        ("1h 30min", 5400),
        ("2m", 120),
        ("250ms", 0.25),
        (" 1d ", 86400),
        (".5", 0.5),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "h", "-1", "1x", "1 hour ago", "infinity", "99999d", "1e3"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|longer"):
        durations.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (9.994, "9.99 s"),
        (12.34, "12.3 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (18720, "5 h 12 min"),
        (3e5, "3 days"),
    ],
)
def test_times_are_written(seconds: float, text: str) -> None:
    assert durations.span(seconds) == text


def test_others_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b]0;x\x07b\nc\r\u202e") == "a ]0;x b c  "


@pytest.mark.parametrize(
    ("argv", "scope", "expected"),
    [
        (["qwen"], "user", ["journalctl", "--user-unit=u.service", "--lines=100", "--no-pager"]),
        (
            ["qwen", "-f", "-n", "5"],
            "system",
            ["journalctl", "--unit=u.service", "--lines=5", "--follow", "--no-pager"],
        ),
        (
            ["qwen", "--json", "--", "--since", "today"],
            "user",
            ["journalctl", "--user-unit=u.service", "--lines=100", "--output=json", "--no-pager", "--since", "today"],
        ),
    ],
)
def test_logs_ask_journalctl_for_the_right_lines(argv: list[str], scope: str, expected: list[str]) -> None:
    command = next(c for c in COMMANDS if c.name == "logs")
    assert arguments(Context(parse(command, argv), "logs"), "u.service", scope) == expected


def test_kinds_that_stay_generic_are_exit_1() -> None:
    assert exits.of_kind("bus-down") == ExitCode.FAILED
    assert exits.of_kind(AgentdError("usage", "x").kind) == ExitCode.USAGE
