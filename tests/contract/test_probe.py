"""The Prober port against real servers on loopback (and what its fake shares)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes import FakeProber, answer

from agentd.adapters.probe import NetworkProber
from agentd.errors import AgentdError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def prober() -> AsyncIterator[NetworkProber]:
    made = NetworkProber()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def server(reply: bytes | None, seen: list[bytes] | None = None) -> AsyncIterator[int]:
    """Answers every request with these bytes; None: never."""

    handlers: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(head)
            if reply is None:
                await reader.read()
            else:
                writer.write(reply)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield running.sockets[0].getsockname()[1]
    finally:
        running.close()
        await running.wait_closed()
        await asyncio.gather(*handlers)


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def failure(call: Awaitable[object]) -> AgentdError:
    with pytest.raises(AgentdError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("real", [True, False], ids=["network", "fake"])
async def test_http_answers_and_refusals(real: bool) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with prober() as network, server(http("503 Unavailable", b'{"a": 1}')) as up:
        probe: NetworkProber | FakeProber = network if real else FakeProber()
        url = f"http://127.0.0.1:{up}/health"
        if isinstance(probe, FakeProber):
            probe.serve(f"http://127.0.0.1:{up}", lambda request: answer(503, b'{"a": 1}'))
            probe.serve("http://127.0.0.1:9", lambda request: 3600.0)
        got = await probe.http(url, timeout=5, method="POST", json={"x": 1})
        assert (got.status, got.body) == (503, b'{"a": 1}')
        refused = await failure(probe.http(f"{base}/health", timeout=5))
        assert (refused.kind, refused.message) == (
            "probe-failed",
            f"cannot connect to {base}/health: connection refused",
        )
        await probe.tcp("127.0.0.1", up, timeout=5)
        refused = await failure(probe.tcp("127.0.0.1", port, timeout=5))
        assert refused.message == f"cannot connect to 127.0.0.1:{port}: connection refused"


async def test_a_silent_server_times_out() -> None:
    async with prober() as probe, server(None) as port:
        began = time.monotonic()
        error = await failure(probe.http(f"http://user:pw@127.0.0.1:{port}/x?key=1", timeout=0.2))
        assert error.kind == "probe-timeout"
        assert error.message == f"cannot read http://127.0.0.1:{port}/x: no answer within 0.2 s"
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"", "the server closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is not HTTP"),
        (http("200 OK", b"x" * 1_100_000), "larger than 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "the answer broke off"),
    ],
    ids=["closed", "not-http", "huge", "cut"],
)
async def test_bad_answers_have_a_reason(reply: bytes, message: str) -> None:
    async with prober() as probe, server(reply) as port:
        error = await failure(probe.http(f"http://127.0.0.1:{port}/", timeout=5))
        assert error.kind == "probe-failed"
        assert message in error.message
        assert len(error.message) < 300


async def test_no_proxy_no_redirect_no_kept_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    seen: list[bytes] = []
    moved = http("302 Found", b"", "Location: http://127.0.0.1:1/elsewhere")
    async with prober() as probe, server(moved, seen) as port:
        for _ in range(2):
            got = await probe.http(f"http://127.0.0.1:{port}/", timeout=5, headers={"Authorization": "Bearer k"})
            assert got.status == 302
        assert len(seen) == 2
        assert b"authorization: bearer k" in seen[0].lower()


@pytest.mark.parametrize("url", ["http://", "nonsense", "ftp://127.0.0.1/", "http://127.0.0.1:99999/"])
async def test_bad_urls_are_failures(url: str) -> None:
    async with prober() as probe:
        assert (await failure(probe.http(url, timeout=1))).kind == "probe-failed"


async def test_tcp_is_cheap_and_has_a_deadline() -> None:
    async with prober() as probe:
        await failure(probe.tcp("localhost", free_port(), timeout=5))
        # A listener with a full backlog: the kernel drops further SYNs.
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            held = [socket.socket() for _ in range(4)]
            for one in held:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            error = await failure(probe.tcp("127.0.0.1", port, timeout=0.2))
            assert error.kind == "probe-timeout"
            for one in held:
                one.close()
        port, rounds = free_port(), 200
        began = time.perf_counter()
        for _ in range(rounds):
            await failure(probe.tcp("127.0.0.1", port, timeout=1))
        assert (time.perf_counter() - began) / rounds < 0.005


@asynccontextmanager
async def redis_server(directory: Path, *options: str) -> AsyncIterator[tuple[int, str]]:
    port, path = free_port(), str(directory / "r.sock")
    binary = shutil.which("redis-server")
    assert binary is not None, "redis-server is needed: apt-get install redis-server"
    process = await asyncio.create_subprocess_exec(
        binary,
        *("--port", str(port), "--bind", "127.0.0.1", "--unixsocket", path, "--save", "", "--dir", str(directory)),
        *options,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        while line := await process.stdout.readline():
            if path.encode() in line or b"connections unix" in line:  # Redis 7.0, and from 7.2 on
                break
        yield port, path
    finally:
        process.terminate()
        await process.communicate()


async def test_redis_ping(tmp_path: Path) -> None:
    async with prober() as probe, redis_server(tmp_path, "--requirepass", "hunter2-secret") as (port, path):
        await probe.redis_ping(f"redis://:hunter2-secret@127.0.0.1:{port}/0", timeout=5)
        await probe.redis_ping(f"unix://:hunter2-secret@{path}", timeout=5)
        wrong = await failure(probe.redis_ping(f"redis://:not-the-secret@127.0.0.1:{port}/0", timeout=5))
        assert wrong.message == f"cannot ping redis://127.0.0.1:{port}/0: wrong or missing password"
        missing = await failure(probe.redis_ping(f"redis://127.0.0.1:{port}/0", timeout=5))
        assert "password" in missing.message
    refused = await failure(probe.redis_ping(f"redis://:s@127.0.0.1:{port}/0", timeout=5))
    assert refused.message == f"cannot ping redis://127.0.0.1:{port}/0: connection refused"
    gone = await failure(probe.redis_ping(f"unix://{path}", timeout=5))
    assert gone.message == f"cannot ping unix://{path}: no such file or directory"


async def test_redis_that_is_silent_or_not_redis(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    running = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = running.sockets[0].getsockname()[1]
    async with prober() as probe:
        error = await failure(probe.redis_ping(f"redis://127.0.0.1:{port}", timeout=0.3))
        assert error.kind == "probe-timeout"
        error = await failure(probe.redis_ping("nonsense://x", timeout=1))
        assert error.kind == "probe-failed"
    running.close()
    await running.wait_closed()


async def test_exec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    probe = NetworkProber()
    await probe.exec(["true"], timeout=5)
    await probe.exec(["sh", "-c", 'test -z "$NOTIFY_SOCKET"'], timeout=5)
    error = await failure(probe.exec(["sh", "-c", "echo first >&2; echo the database is away >&2; exit 3"], timeout=5))
    assert error.message == "sh exited with status 3: the database is away"
    error = await failure(probe.exec(["sh", "-c", "kill -9 $$"], timeout=5))
    assert error.message == "sh was killed by SIGKILL"
    error = await failure(probe.exec([str(tmp_path / "none")], timeout=5))
    assert error.message == f"cannot run {tmp_path}/none: no such file or directory"
    error = await failure(probe.exec(["sh", "-c", "yes x | head -c 3000000 >&2; exit 1"], timeout=20))
    assert error.message == "sh exited with status 1: x"


async def test_exec_kills_the_whole_group(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    script = f"sleep 300 & echo $$ $! > {note}.new; mv {note}.new {note}; wait"
    error = await failure(NetworkProber().exec(["sh", "-c", script], timeout=1.0))
    assert error.kind == "probe-timeout"
    pids = [int(word) for word in note.read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        async with asyncio.timeout(5):
            await ended(pid)


async def ended(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
