"""The client of the socket: what it sends, what it makes of every kind of answer, and how it fails."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.serving import Served, served

from agentd import paths
from agentd.client import ApiProblem, Client, Stream, Unreachable, default_socket, quote
from agentd.errors import AgentdError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


class Raw:
    """A listener that answers every connection with given bytes and keeps what it was asked."""

    def __init__(self, path: Path, answer: Callable[[socket.socket], None]) -> None:
        self.path, self.requests = str(path), []  # type: ignore[var-annotated]
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                request = connection.recv(65536)
                if request == b"stop":
                    return
                self.requests.append(request)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._answer(connection)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
            last.sendall(b"stop")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Callable[[bytes], Raw]]:
    opened: list[Raw] = []

    def make(answer: bytes) -> Raw:
        opened.append(Raw(tmp_path / "raw.sock", lambda s: s.sendall(answer)))
        return opened[0]

    yield make
    for found in opened:
        found.close()


def test_get_post_and_delete(server: Served) -> None:
    client = Client(str(server.path))
    assert client.get("/v1/slots")["slots"][0]["resident"] == "qwen"
    assert client.post("/v1/switch", {"target": "dolphin"})["change"]["target"] == "dolphin"
    assert client.request("DELETE", "/v1/lease") == {"change": None, "joined": False}


def test_problem_keeps_kind_hint_and_body(server: Served) -> None:
    client = Client(str(server.path))
    first = client.post("/v1/switch", {"target": "dolphin"})["change"]["id"]
    with pytest.raises(ApiProblem) as refused:
        client.post("/v1/switch", {"target": "qwen"})
    problem = refused.value
    assert (problem.kind, problem.status, problem.body["change"]) == ("conflict", 409, first)
    assert first in problem.hint


def test_request_is_plain_http_1_0(raw: Callable[[bytes], Raw]) -> None:
    listener = raw(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert Client(listener.path).post("/v1/x", {"a": "ü"}) == {}
    head, _, body = listener.requests[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /v1/x HTTP/1.0"
    assert b"Connection: close" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"a": "ü"}


def test_answer_without_length_ends_with_the_connection(raw: Callable[[bytes], Raw]) -> None:
    assert Client(raw(b"HTTP/1.1 200 OK\r\n\r\n[1, 2]").path).get("/") == [1, 2]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"", "connection-lost", "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "bad-answer", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "bad-answer", "does not speak HTTP"),
        (b"HTTP/1.1 okay\r\n\r\n", "bad-answer", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "connection-lost", "2 of 99 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi!", "bad-answer", "no JSON: hi!"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 5\r\n\r\n<p>x\n", "bad-answer", "status 502"),
        (b"HTTP/1.1 500 Bad\r\nContent-Length: 2\r\n\r\n[]", "bad-answer", "status 500"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300000 + b"\r\n\r\n", "bad-answer", "is not HTTP"),
    ],
)
def test_malformed_answers_are_named(raw: Callable[[bytes], Raw], answer: bytes, kind: str, text: str) -> None:
    with pytest.raises(AgentdError, match=text) as failed:
        Client(raw(answer).path).get("/")
    assert failed.value.kind == kind


def test_no_daemon_says_how_to_start_it(tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    with pytest.raises(Unreachable) as failed:
        Client(path).get("/")
    assert failed.value.message == f"cannot reach agentd at {path}: no such file or directory"
    assert failed.value.hint == "start it with: systemctl --user start agentd"


def test_dead_socket_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Unreachable, match="connection refused"):
        Client(str(path)).get("/")


def test_silent_daemon_is_a_timeout(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(AgentdError, match=r"did not answer within 0\.05 s") as failed:
            Client(str(path), timeout=0.05).get("/")
    assert failed.value.kind == "timeout"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who lacks the permission")
def test_lacking_permission_is_said(server: Served) -> None:
    code = (
        # Imported as root: the checkout may be where others cannot read.
        "import json, os, socket, sys\n"
        "from agentd.client import Client\n"
        "os.setgroups([]); os.setgid(61001); os.setuid(61001)\n"
        "try: Client(sys.argv[1]).get('/')\n"
        "except Exception as e: print(e.kind, e.message, e.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(server.path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("permission cannot reach agentd")
    assert "permission denied only the user that agentd runs as" in done.stdout


def test_stream_gives_messages_then_the_end(server: Served) -> None:
    client = Client(str(server.path))
    change = client.post("/v1/switch", {"target": "dolphin"})["change"]
    with client.stream(f"/v1/changes/{change['id']}/events") as stream:
        event, data = stream.next(5) or ("", "")
        assert (event, json.loads(data)["phase"]) == ("message", "precheck")
        server.call(lambda ops: ops.advance(change["id"]))
        assert json.loads((stream.next(5) or ("", ""))[1])["phase"] == "drain"
        assert stream.next(0.01) is None
        server.follow_through()
        names: list[str] = []
        with pytest.raises(Unreachable, match="the stream ended"):
            drain(stream, names)
        assert names[-1] == "done"


def drain(stream: Stream, names: list[str]) -> None:
    while (found := stream.next(5)) is not None:
        names.append(found[0])


def test_stream_of_nothing_is_a_problem(server: Served) -> None:
    with pytest.raises(ApiProblem) as failed:
        Client(str(server.path)).stream("/v1/changes/nope/events")
    assert failed.value.kind == "change-not-found"


def test_stream_joins_data_and_skips_comments(raw: Callable[[bytes], Raw]) -> None:
    listener = raw(b"HTTP/1.0 200 OK\r\n\r\n: hello\n\nid: 7\nevent: x\ndata: a\ndata:b\n\ndata: c\n\n")
    with Client(listener.path).stream("/") as stream:
        assert stream.next(5) == ("x", "a\nb")
        assert stream.next(5) == ("message", "c")


def test_socket_is_chosen_as_documented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("agentd.client.SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    env: dict[str, str] = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert default_socket(env) == str(paths.socket_path(env))
    assert default_socket({}) == str(paths.socket_path({}))
    (tmp_path / "system.sock").touch()
    assert default_socket(env) == str(tmp_path / "system.sock")
    assert default_socket(env | {"AGENTD_SOCKET": "/x"}) == "/x"
    (tmp_path / "agentd").mkdir()
    (tmp_path / "agentd" / "agentd.sock").touch()
    assert default_socket(env) == str(tmp_path / "agentd" / "agentd.sock")


@pytest.mark.parametrize(
    ("name", "text"), [("qwen-2.5_x~", "qwen-2.5_x~"), ("a/b?c d", "a%2Fb%3Fc%20d"), ("ü²", "%C3%BC%C2%B2")]
)
def test_names_are_quoted(name: str, text: str) -> None:
    assert quote(name) == text


def test_anything_may_be_asked_for(server: Served) -> None:
    found: Any = None
    with pytest.raises(ApiProblem) as failed:
        found = Client(str(server.path)).get(f"/v1/services/{quote('../x y')}")
    assert found is None
    assert failed.value.kind == "service-not-found"
