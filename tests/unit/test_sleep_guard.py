"""The guard before a start: the drop-ins that call it, and the command itself against real sockets and a systemctl."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.cli.main import main
from agentd.core.dropin import DropIn, Guard, exclusive

A, B, C = "vllm-a.service", "vllm-b.service", "vllm-c.service"
URLS = {A: "http://127.0.0.1:1", B: "http://127.0.0.1:2", C: "http+unix:///run/user/1000/c.sock"}

SYSTEMCTL = """#!/bin/sh
# Answers from files in $STATES; writes down what it was asked to stop.
shift
case "$1" in
show) property=${2#--property=}; shift 2
  for unit; do echo "$property=$(cat "$STATES/$unit.$property" 2>/dev/null)"; echo; done ;;
stop) shift; for unit; do echo "$unit" >> "$STATES/stopped"; done ;;
esac
"""


def guards(*sleepers: str) -> dict[str, str]:
    made: tuple[DropIn, ...] = exclusive([A, B, C], Guard(frozenset(sleepers), URLS, "/home/user/bin/agentctl"))
    return {d.unit: "\n".join(line for line in d.body.splitlines() if not line.startswith("#")) for d in made}


def test_where_nobody_may_sleep_nothing_has_changed() -> None:
    without = {d.unit: d.body for d in exclusive([A, B, C])}
    assert {d.unit: d.body for d in exclusive([A, B, C], Guard(frozenset(), URLS, "agentctl"))} == without


def test_between_a_sleeper_and_any_other_there_is_no_conflict_but_a_guard() -> None:
    start = "[Service]\nExecStartPre=+/home/user/bin/agentctl models guard"
    assert guards(C) == {
        A: f"[Unit]\nConflicts={B}\n{start} {A} -- {C}={URLS[C]}",
        B: f"[Unit]\nConflicts={A}\nAfter={A}\n{start} {B} -- {C}={URLS[C]}",
        C: f"{start} {C} -- {A}={URLS[A]} {B}={URLS[B]}",
    }
    assert all("Conflicts" not in body for body in guards(A, B, C).values())


class Server:
    """/is_sleeping, on TCP or on a unix socket."""

    def __init__(self, sleeping: object, path: str = "", status: int = 200) -> None:
        self._socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._socket.bind(path or ("127.0.0.1", 0))
        self._socket.listen()
        body = json.dumps({"is_sleeping": sleeping}).encode()
        self._answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        self.url = f"http+unix://{path}" if path else f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.metrics = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                asked = connection.recv(4096)
                if asked == b"stop":
                    return
                if asked.startswith(b"GET /metrics"):
                    connection.sendall(b"HTTP/1.1 200 X\r\n\r\n" + self.metrics)
                    continue
                assert asked.startswith(b"GET /is_sleeping HTTP/1.0")
                connection.sendall(self._answer)

    def close(self) -> None:
        with socket.socket(self._socket.family) as last:
            last.connect(self._socket.getsockname())
            last.sendall(b"stop")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    opened: list[Server] = []

    def make(sleeping: object, path: str = "", status: int = 200) -> Server:
        opened.append(Server(sleeping, path, status))
        return opened[-1]

    yield make
    for found in opened:
        found.close()


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Units as systemctl shows them; all active at first."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STATES", str(tmp_path))
    for unit in (A, B, C):
        (tmp_path / f"{unit}.ActiveState").write_text("active")
        (tmp_path / f"{unit}.NRestarts").write_text("0")
    return tmp_path


def stopped(states: Path) -> list[str]:
    return (states / "stopped").read_text().split() if (states / "stopped").exists() else []


def test_who_sleeps_is_left_alone_and_who_is_awake_is_stopped(states: Path, serve: Callable[..., Server]) -> None:
    asleep, awake = serve(True), serve(False)
    assert main(["models", "guard", C, "--", f"{A}={asleep.url}", f"{B}={awake.url}"]) == 0
    assert stopped(states) == [B]


@pytest.mark.parametrize(("awake", "gone"), [(1, [A]), (0, [])])
def test_who_is_only_paused_does_not_sleep(
    states: Path, serve: Callable[..., Server], awake: int, gone: list[str]
) -> None:
    paused = serve(True)
    paused.metrics = b'# X\nvllm:engine_sleep_state{engine="0",sleep_state="awake"} %d.0\n' % awake
    assert main(["models", "guard", C, "--", f"{A}={paused.url}"]) == 0
    assert stopped(states) == gone


def test_a_socket_is_asked_as_well(states: Path, serve: Callable[..., Server], tmp_path: Path) -> None:
    asleep = serve(True, str(tmp_path / "c.sock"))
    assert main(["models", "guard", A, "--", f"{C}={asleep.url}"]) == 0
    assert stopped(states) == []


@pytest.mark.parametrize("how", ["refused", "404", "garbage"])
def test_who_does_not_say_that_it_sleeps_is_stopped(states: Path, serve: Callable[..., Server], how: str) -> None:
    url = {"refused": lambda: "http://127.0.0.1:1", "404": lambda: serve(True, status=404).url,
           "garbage": lambda: serve("yes").url}[how]()  # fmt: skip
    assert main(["models", "guard", C, "--", f"{A}={url}"]) == 0
    assert stopped(states) == [A]


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_who_is_down_is_not_asked(states: Path, state: str) -> None:
    (states / f"{A}.ActiveState").write_text(state)
    assert main(["models", "guard", C, "--", f"{A}=http://127.0.0.1:1"]) == 0
    assert stopped(states) == []


def test_a_restart_after_a_crash_stops_nobody(
    states: Path, serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    (states / f"{C}.NRestarts").write_text("1")
    assert main(["models", "guard", C, "--", f"{A}={serve(False).url}"]) == 1
    assert stopped(states) == []
    assert f"{C} is not restarted while {A} has the GPU" in capsys.readouterr().err
    asleep = serve(True)
    assert main(["models", "guard", C, "--", f"{A}={asleep.url}"]) == 0


def test_of_two_that_start_at_once_the_first_by_name_goes_on(states: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each guard sees the other's unit on its way up; if both were stopped, none would be left."""
    for unit in (A, B):
        (states / f"{unit}.ActiveState").write_text("activating")
        (states / f"{unit}.SubState").write_text("start-pre")
    assert main(["models", "guard", B, "--", f"{A}=http://127.0.0.1:1"]) == 1
    assert stopped(states) == []
    assert f"{B} is not started: {A} is being started at the same moment" in capsys.readouterr().err
    assert main(["models", "guard", A, "--", f"{B}=http://127.0.0.1:1"]) == 0
    assert stopped(states) == [B]


@pytest.mark.parametrize("state", ["start", "start-post", "auto-restart"])
def test_who_loads_or_waits_for_a_restart_has_no_guard_to_yield_to(states: Path, state: str) -> None:
    (states / f"{A}.ActiveState").write_text("activating")
    (states / f"{A}.SubState").write_text(state)
    assert main(["models", "guard", B, "--", f"{A}=http://127.0.0.1:1"]) == 0
    assert stopped(states) == [A]


def test_a_word_that_is_no_pair_is_a_usage_error(states: Path) -> None:
    assert main(["models", "guard", C, "--", A]) == 2
    assert stopped(states) == []


def test_a_systemctl_that_fails_keeps_the_unit_from_starting(
    states: Path, serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    (states / "bin" / "systemctl").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    assert main(["models", "guard", C, "--", f"{A}=http://127.0.0.1:1"]) == 1
    assert "no bus" in capsys.readouterr().err
