"""agentd as a unit: READY and STATUS=, clean starts and stops, activation, watchdog, exit statuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from integration.looks import AGENTD, NO_DEFAULT, agentd_active, complaints, tcp
from integration.stack import LONG, Stack, until
from userunits import systemctl

QUICK = 10.0
"""Seconds for what takes a fraction of one on an idle machine, and must not come near TimeoutStopSec=."""


def test_ready_comes_with_a_first_picture_and_a_status(bare_stack: Stack) -> None:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    systemctl("start", AGENTD)
    # READY means that everything can be asked at once.
    status = bare_stack.client.get("/v1/status")
    assert status["ready"], status["checks"]
    assert {s["name"] for s in status["services"]} == {"qwen", "dolphin", "ollama", "redis", "litellm"}
    assert all(s["health"] == "stopped" for s in status["services"]), status["services"]
    assert bare_stack.show(AGENTD, "StatusText") == "gpu0: idle"
    assert status["daemon"]["status"] == "gpu0: idle"
    assert bare_stack.ctl("switch-model", "dolphin").code == 0
    until(lambda: bare_stack.show(AGENTD, "StatusText") == "gpu0: dolphin")
    assert complaints(bare_stack) == ""


def test_start_stop_and_restart_are_quick_and_clean(stack: Stack) -> None:
    model = stack.pid("vllm-qwen.service")
    for verb in ("restart", "stop", "start", "restart"):
        begun = time.monotonic()
        systemctl(verb, AGENTD)
        assert time.monotonic() - begun < QUICK, verb
        assert stack.show(AGENTD, "Result") == "success"
        assert stack.show(AGENTD, "ExecMainStatus") == "0"
    stack.settled("qwen")
    assert stack.pid("vllm-qwen.service") == model, "a healthy model is never restarted"
    assert "Traceback" not in stack.journal(AGENTD, 1000)
    assert complaints(stack) == ""


def test_stop_does_not_wait_for_open_streams_or_a_running_switch(stack: Stack) -> None:
    stack.behaviour("dolphin", load_seconds=60.0)
    with stack.follow() as events:
        change = stack.post("/v1/switch", target="dolphin")
        stack.phase(change, "start")
        begun = time.monotonic()
        stack.stop_agentd()
        assert time.monotonic() - begun < QUICK
        assert events is not None
    assert stack.show(AGENTD, "Result") == "success"
    assert "Traceback" not in stack.journal(AGENTD, 1000)
    assert stack.open_changes() == [change["id"]], "what was cut off waits in the journal for the next start"
    stack.start_agentd()
    stack.settled("qwen")


def test_a_request_starts_agentd_through_its_sockets(bare_stack: Stack) -> None:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    systemctl("start", "agentd.socket")
    assert not agentd_active()
    done = bare_stack.ctl("status")
    assert (done.code, done.err) == (0, "")
    assert agentd_active()
    bare_stack.stop_agentd(sockets=False)
    assert not agentd_active()
    answer = tcp("/readyz")
    assert (answer.status, answer.text) == (200, "ok\n")
    assert agentd_active()
    assert complaints(bare_stack) == ""


def test_without_the_socket_unit_agentd_opens_its_own_doors(bare_stack: Stack) -> None:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    (bare_stack.units / "agentd.socket").unlink()
    systemctl("daemon-reload")
    systemctl("start", AGENTD)
    assert bare_stack.ctl("status").code == 0
    assert tcp("/livez").status == 200
    systemctl("stop", AGENTD)
    assert not Path(bare_stack.client.path).exists(), "the socket goes with who opened it"
    assert complaints(bare_stack) == ""


def test_a_taken_tcp_port_costs_the_scrape_not_the_models(bare_stack: Stack) -> None:
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    (bare_stack.units / "agentd.socket").unlink()
    systemctl("daemon-reload")
    with socket.create_server(("127.0.0.1", 9775)):
        systemctl("start", AGENTD)
        done = bare_stack.ctl("status")
        assert done.code == 0
        assert "127.0.0.1:9775" in done.out, "told as something that is not as it should be"
        assert bare_stack.switch("qwen")[0] == 0
    until(_ready_over_tcp)


def _ready_over_tcp() -> bool:
    try:
        return tcp("/readyz").status == 200
    except ConnectionRefusedError:
        return False


def test_a_second_agentd_is_refused(stack: Stack) -> None:
    first = stack.pid(AGENTD)
    done = subprocess.run(
        [stack.home / ".local/bin/agentd"],
        env={**os.environ, "AGENTD_SOCKET": str(stack.home / "second.sock")},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 1
    complaint = f"agentd: cannot open the journal {stack.state}/journal.sqlite: another agentd (pid {first}) uses it"
    assert done.stderr.splitlines()[-1].startswith(complaint), done.stderr
    assert "systemctl --user stop agentd" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1, "one sentence is enough"
    assert stack.pid(AGENTD) == first
    assert stack.ctl("status", "--check").code in (0, 1)
    assert stack.answers("qwen")


def test_the_watchdog_starts_a_stuck_agentd_anew(bare_stack: Stack) -> None:
    bare_stack.dropin(AGENTD, "96-watchdog.conf", "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=5s\n")
    systemctl("daemon-reload")
    bare_stack.start()
    first, model = bare_stack.pid(AGENTD), bare_stack.pid("vllm-qwen.service")
    # An idle one lives on: nothing but time passes here.
    quiet = time.monotonic() + 5
    until(lambda: time.monotonic() > quiet or bare_stack.pid(AGENTD) != first)
    assert bare_stack.pid(AGENTD) == first, bare_stack.journal(AGENTD)
    os.kill(first, signal.SIGSTOP)
    until(lambda: bare_stack.pid(AGENTD) not in (0, first) and agentd_active())
    assert "Watchdog timeout" in bare_stack.journal(AGENTD)
    assert bare_stack.settled("qwen")["state"] == "active"
    assert bare_stack.pid("vllm-qwen.service") == model


def test_an_invalid_configuration_ends_with_78_and_no_restart(bare_stack: Stack) -> None:
    path = bare_stack.write_config("99-bad.toml", '[daemon]\nresync = "soon"\nlog_levle = "info"\n')
    systemctl("start", AGENTD, check=False)
    until(lambda: bare_stack.show(AGENTD, "ActiveState") == "failed")
    assert bare_stack.show(AGENTD, "SubState") == "failed", "not auto-restart"
    assert bare_stack.show(AGENTD, "ExecMainStatus") == "78"
    assert bare_stack.show(AGENTD, "NRestarts") == "0"
    said = bare_stack.journal(AGENTD)
    assert f"{path}:2: daemon.resync" in said
    assert f"{path}:3: daemon.log_levle" in said
    assert "log_level" in said
    assert "Traceback" not in said
    path.unlink()
    bare_stack.start()


def test_sighup_during_the_start_does_not_kill(bare_stack: Stack) -> None:
    """The shell's `kill -HUP` may come at any time."""
    bare_stack.write_config("80-test.toml", NO_DEFAULT)
    systemctl("start", "--no-block", AGENTD)
    until(lambda: "opening the journal" in bare_stack.show(AGENTD, "StatusText") or agentd_active())
    pid = bare_stack.pid(AGENTD)
    os.kill(pid, signal.SIGHUP)
    until(agentd_active)
    with bare_stack.follow(after=0) as events:
        events.kind("config.applied")
    assert bare_stack.pid(AGENTD) == pid
    assert complaints(bare_stack) == ""
