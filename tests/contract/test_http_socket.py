"""HTTP over a unix socket: the prober, agentctl's own question, and who listens, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.probe import NetworkProber
from agentd.cli.direct import ask
from agentd.cli.parser import UsageError
from agentd.core.addresses import LONGEST_SOCKET, AddressError, parse_url, split_http_socket
from agentd.errors import AgentdError


@asynccontextmanager
async def server(path: Path) -> AsyncIterator[list[str]]:
    """Answers every request with what was asked; the requests, as they came."""
    seen: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        body = head.split(" ")[1].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    made = await asyncio.start_unix_server(serve, str(path))
    try:
        yield seen
    finally:
        made.close()
        await made.wait_closed()
        await asyncio.gather(*tasks)


async def test_the_prober(tmp_path: Path) -> None:
    path, prober = tmp_path / "a b ü%.sock", NetworkProber()
    async with server(path) as seen:
        answer = await prober.http(f"http+unix://{path}/v1/models?x=1", timeout=5)
        assert (answer.status, answer.body) == (200, b"/v1/models?x=1")
        assert "\r\nHost: localhost\r\n" in seen[0]
        answer = await prober.http(f"http+unix://{path}", timeout=5, method="POST", json={"a": 1})
        assert answer.body == b"/"
        assert seen[1].startswith("POST / HTTP/1.1\r\n")
    path.unlink(missing_ok=True)
    with pytest.raises(AgentdError, match="no such file or directory"):
        await prober.http(f"http+unix://{path}/health", timeout=5)


async def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(AgentdError, match="connection refused"):
        await NetworkProber().http(f"http+unix://{path}/health", timeout=5)
    assert ask(f"http+unix://{path}/health", (200,), 5) == "connection refused"
    assert LinuxKernel().socket_holder(str(path)) is None


async def test_the_question_of_agentctl(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    async with server(path) as seen:
        assert await asyncio.to_thread(ask, f"http+unix://{path}/health", (200,), 5) == ""
        assert await asyncio.to_thread(ask, f"http+unix://{path}", (404,), 5) == "it answers with status 200"
    assert [head.split(" ")[1] for head in seen] == ["/health", "/"]
    for wrong in ("http+unix:///no/socket", "http+unix://host/x.sock", "http+unix:///.sock"):
        with pytest.raises(UsageError):
            ask(wrong, (200,), 5)


async def test_who_listens_on_a_socket(tmp_path: Path) -> None:
    kernel, path = LinuxKernel(), tmp_path / "m.sock"
    assert kernel.socket_holder(str(path)) is None
    async with server(path):
        holder = kernel.socket_holder(str(path))
        assert holder is not None
        assert (holder.port, holder.pid, holder.comm) == (0, os.getpid(), kernel.comm(os.getpid()))
    assert kernel.socket_holder(str(tmp_path)) is None, "a directory"
    assert kernel.socket_holder("/" + "x" * 200) is None
    assert kernel.socket_holder("/a\0b") is None


def test_a_socket_whose_queue_is_full_has_a_holder(tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
        for one in waiting:
            one.connect_ex(str(path))
        assert LinuxKernel().socket_holder(str(path)) is not None
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http+unix:///run/m.sock", ("/run/m.sock", "/")),
        ("http+unix:///run/m.sock/", ("/run/m.sock", "/")),
        ("http+unix:///run/m.sock/v1/models?a=b", ("/run/m.sock", "/v1/models?a=b")),
        ("http+unix:///run/x.sock.d/m.sock/health", ("/run/x.sock.d/m.sock", "/health")),
        ("http+unix:///a.sock/b.sock", ("/a.sock", "/b.sock")),
        ("http+unix:///run/m.socket", None),
        ("http+unix:///run/.sock", None),
        ("http+unix://run/m.sock", None),
        ("http://run/m.sock", None),
        ("http+unix:///run//m.sock", None),
    ],
)
def test_where_the_socket_ends(url: str, parts: tuple[str, str] | None) -> None:
    assert split_http_socket(url) == parts


@pytest.mark.parametrize(
    "url",
    ["http+unix:///x", "http+unix://h/x.sock", "http+unix:///x.sock?a", f"http+unix:///{'x' * LONGEST_SOCKET}.sock"],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(AddressError):
        parse_url(url)


def test_a_url_of_a_socket() -> None:
    address = parse_url("http+unix:///run/m.sock")
    assert (address.http, address.host, address.port, address.path, address.socket) == (True, "", 0, "", "/run/m.sock")
