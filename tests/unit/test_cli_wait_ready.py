"""agentctl wait-ready: by agentd, or by asking the service itself over real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.serving import Served, served

from agentd.cli import direct, wait_ready
from agentd.cli.main import main
from agentd.types import ExitCode, Health

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
LOADING = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"


class Speaker:
    """Answers connection after connection with the next of `answers`, the last one for ever."""

    def __init__(self, *answers: bytes, family: socket.AddressFamily = socket.AF_INET, path: str = "") -> None:
        self.asked: list[bytes] = []
        self._answers = list(answers)
        self._socket = socket.socket(family)
        self._socket.bind(path or ("127.0.0.1", 0))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                request = connection.recv(4096)
                if request == b"stop":
                    return
                self.asked.append(request)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                connection.sendall(answer)

    def close(self) -> None:
        with socket.socket(self._socket.family) as last:
            last.connect(self._socket.getsockname())
            last.sendall(b"stop")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def speaker() -> Iterator[Callable[..., Speaker]]:
    opened: list[Speaker] = []

    def make(*answers: bytes, **more: object) -> Speaker:
        opened.append(Speaker(*answers, **more))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for found in opened:
        found.close()


@pytest.fixture(autouse=True)
def no_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAINPID", raising=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_it_waits_until_the_status_is_right(
    speaker: Callable[..., Speaker], capsys: pytest.CaptureFixture[str]
) -> None:
    found = speaker(LOADING, LOADING, OK)
    assert main(["wait-ready", "qwen", "--url", f"http://{found.address}/health"]) == 0
    assert len(found.asked) == 3
    assert found.asked[0].startswith(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1:")
    assert capsys.readouterr().out.startswith("qwen is ready (")


def test_other_statuses_may_be_expected(speaker: Callable[..., Speaker]) -> None:
    found = speaker(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    assert main(["wait-ready", "x", "--url", f"http://{found.address}", "--expect", "200,401"]) == 0


def test_giving_up_says_what_was_last_seen(speaker: Callable[..., Speaker], capsys: pytest.CaptureFixture[str]) -> None:
    found = speaker(LOADING)
    assert main(["wait-ready", "x", "--url", f"http://{found.address}", "--timeout", "60ms"]) == ExitCode.FAILED
    assert capsys.readouterr().err.endswith(": it answers with status 503\n")
    assert len(found.asked) >= 2
    assert main(["wait-ready", "x", "--url", f"tcp://127.0.0.1:{free_port()}", "--timeout", "0"]) == ExitCode.FAILED
    assert "connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"+PONG\r\n", ""),
        (b"-NOAUTH Authentication required.\r\n", ""),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "Redis answers -LOADING"),
        (b"", "Redis answers nothing"),
    ],
)
def test_redis(speaker: Callable[..., Speaker], tmp_path: Path, answer: bytes, reason: str) -> None:
    found = speaker(answer)
    assert direct.ask(f"redis://{found.address}", (200,), 2.0).startswith(reason)
    assert found.asked == [b"*1\r\n$4\r\nPING\r\n"]
    path = str(tmp_path / "r.sock")
    speaker(answer, family=socket.AF_UNIX, path=path)
    assert direct.ask(f"unix://{path}", (200,), 2.0).startswith(reason)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0\r\n", "what answers does not speak HTTP"),
        (b"", "the connection was closed without an answer"),
        (b"HTTP/1.1\r\n", "what answers does not speak HTTP"),
        (b"HTTP/1.0 204 \r\n", "it answers with status 204"),
    ],
)
def test_strange_answers_are_named(speaker: Callable[..., Speaker], answer: bytes, reason: str) -> None:
    assert direct.ask(f"http://{speaker(answer).address}/", (200,), 2.0) == reason


def test_silence_is_a_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert direct.ask(f"http://127.0.0.1:{silent.getsockname()[1]}/", (200,), 0.05) == "no answer within 0.05 s"
        assert direct.ask(f"tcp://127.0.0.1:{silent.getsockname()[1]}", (200,), 1.0) == ""


def test_pauses_grow_from_short_to_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time waited so far, which is told here by the pauses themselves."""
    pauses: list[float] = []
    monkeypatch.setattr(wait_ready.time, "monotonic", lambda: 50.0 + sum(pauses))
    monkeypatch.setattr(wait_ready.select, "select", lambda r, w, x, pause: pauses.append(pause) or ([], [], []))
    answers = iter([*["no"] * 800, ""])
    assert wait_ready.wait(lambda timeout: next(answers), 1000.0) == ""
    assert pauses[0] == 0.01
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5
    second = next(n for n in range(len(pauses)) if sum(pauses[:n]) >= 1.0)
    assert pauses[second] < 0.011, "what loads for a second is seen within 11 ms"


def test_end_of_the_main_process_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main_process = subprocess.Popen(["sleep", "1000"])
    monkeypatch.setenv("MAINPID", str(main_process.pid))
    url = f"http://127.0.0.1:{free_port()}"
    killer = threading.Timer(0.1, main_process.kill)
    killer.start()
    begun = time.monotonic()
    assert main(["wait-ready", "qwen", "--url", url, "--timeout", "1h"]) == ExitCode.FAILED
    assert time.monotonic() - begun < 600
    main_process.wait()
    killer.join()
    assert "its main process has ended; last answer: connection refused" in capsys.readouterr().err
    # One that has gone before we begin is seen, too.
    assert main(["wait-ready", "qwen", "--url", url, "--timeout", "1h"]) == ExitCode.FAILED


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("AGENTD_SOCKET", str(tmp_path / "agentd.sock"))
    with served(tmp_path) as found:
        yield found


def be(server: Served, health: Health, cause: str = "") -> None:
    def change(ops: object) -> None:
        services = server.ops.service_list
        services[0] = replace(services[0], health=health, cause=cause)

    server.call(change)


def test_agentd_is_asked(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    be(server, Health.STARTING, "loading weights")
    timer = threading.Timer(0.1, be, (server, Health.READY))
    timer.start()
    assert main(["wait-ready", "qwen"]) == 0
    timer.join()
    be(server, Health.STARTING, "loading weights")
    assert main(["wait-ready", "qwen", "--timeout", "50ms"]) == ExitCode.FAILED
    assert capsys.readouterr().err.endswith(": starting: loading weights\n")


@pytest.mark.parametrize("health", [Health.FAILED, Health.MISSING])
def test_what_cannot_become_ready_is_not_waited_for(
    server: Served, capsys: pytest.CaptureFixture[str], health: Health
) -> None:
    be(server, health, "CUDA out of memory")
    assert main(["wait-ready", "qwen", "--timeout", "1h"]) == ExitCode.FAILED
    assert f"{health}: CUDA out of memory" in capsys.readouterr().err


def test_unknown_service_is_a_usage_error(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait-ready", "qwne"]) == ExitCode.USAGE
    assert 'did you mean "qwen"?' in capsys.readouterr().err


def test_without_a_daemon_the_files_say_whom_to_ask(
    speaker: Callable[..., Speaker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = speaker(LOADING, OK)
    (tmp_path / "agentd.toml").write_text(
        f'[services.web]\nunit = "web.service"\nurl = "http://{found.address}"\n'
        '[services.web.readiness.http]\npath = "/ok"\n'
    )
    monkeypatch.setenv("AGENTD_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setenv("AGENTD_CONFIG_DIR", str(tmp_path))
    assert main(["wait-ready", "web"]) == 0
    assert [request.split()[1] for request in found.asked] == [b"/ok", b"/ok"]
    assert os.environ["AGENTD_CONFIG_DIR"] == str(tmp_path)
