"""The probes' own HTTP and Redis on the wire, byte by byte, and who listens by netlink beside /proc."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.adapters import plain_http, redis_ping, sock_diag
from agentd.adapters.conversation import BrokenOff, Conversation, TooLarge, connected
from agentd.adapters.probe import NetworkProber
from agentd.core import procfs
from agentd.errors import AgentdError


@asynccontextmanager
async def speaker(*pieces: bytes) -> AsyncIterator[int]:
    """Sends these pieces one by one to whoever connects, and closes."""

    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(task)
        with contextlib.suppress(OSError):
            await reader.read(1)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*served)


async def heard(*pieces: bytes, most: int = 1000) -> tuple[int, bytes]:
    async with speaker(*pieces) as port, asyncio.timeout(5), connected("127.0.0.1", port) as connection:
        talk = Conversation(connection)
        await talk.say(b"x")
        return await plain_http.answer(talk, most)


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello and more"], (200, b"hello")),
        ([b"HTTP/1.1 20", b"0 OK\r\nContent-Length: 5\r\n\r", b"\nhe", b"llo"], (200, b"hello")),
        ([b"HTTP/1.0 503 No\r\n\r\nuntil ", b"the end"], (503, b"until the end")),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"], (204, b"")),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r", b"\n1\r\n!\r\n0\r\n\r\n"],
            (200, b"hello!"),
        ),
    ],
    ids=["length", "torn", "close", "no-content", "chunks"],
)
async def test_answers(pieces: list[bytes], answer: tuple[int, bytes]) -> None:
    assert await heard(*pieces) == answer


@pytest.mark.parametrize(
    ("piece", "error"),
    [
        (b"", BrokenOff),
        (b"HTTP/1.1 200 OK\r\nContent-Le", BrokenOff),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", BrokenOff),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", BrokenOff),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", plain_http.NotHttp),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", plain_http.NotHttp),
        (b"HTTP/1.1 abc\r\n\r\n", plain_http.NotHttp),
        (b"220 mail\r\n\r\n", plain_http.NotHttp),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n", TooLarge),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", TooLarge),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000, TooLarge),
    ],
)
async def test_broken_answers(piece: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await heard(piece)


def test_requests() -> None:
    where = plain_http.target("http://[::1]:8001/a%20b?c=d")
    assert where is not None
    sent = plain_http.request(where, "POST", {"X-Key": "v"}, b"{}")
    assert sent.startswith(b"POST /a%20b?c=d HTTP/1.1\r\nHost: [::1]:8001\r\nConnection: close\r\n")
    assert sent.endswith(b"X-Key: v\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    with pytest.raises(ValueError, match="the header X-Key"):
        plain_http.request(where, "GET", {"X-Key": "v\r\nEvil: 1"}, None)


@pytest.mark.parametrize(
    "url", ["https://x/", "http://u:p@x/", "http://x/a b", "http://x:99999/", "http://", "x", "http://ü/"]
)
def test_what_the_library_shall_look_at(url: str) -> None:
    assert plain_http.target(url) is None


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "it is still loading its data"),
        (b"-NOAUTH Authentication required.\r\n", "wrong or missing password"),
        (b"-DENIED Protected mode\r\n", "protected mode"),
        (b"HTTP/1.1 400 Bad Request\r\n", "the answer is not Redis's"),
        (b"x" * 10000, "the answer is not Redis's"),
        (b"+OK\r\n", "the answer is not Redis's"),
        (b"", "the server closed the connection without an answer"),
        (b"+PO", "the answer broke off"),
    ],
)
async def test_redis_that_is_not_ready(reply: bytes, why: str) -> None:
    async with speaker(reply) as port:
        with pytest.raises(AgentdError) as caught:
            await NetworkProber().redis_ping(f"redis://127.0.0.1:{port}/0", timeout=5)
    assert caught.value.message == f"cannot ping redis://127.0.0.1:{port}/0: {why}"


def test_redis_addresses() -> None:
    assert redis_ping.address("redis://me:s%40c@h:1/0") == redis_ping.Address("h", 1, "", "me", "s@c")
    assert redis_ping.address("unix://:s@/run/r.sock") == redis_ping.Address(path="/run/r.sock", password="s")
    for url in ("rediss://h", "redis://h?health_check_interval=2", "nonsense://x", "redis://h:x", "redis://"):
        assert redis_ping.address(url) is None


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")],
)
def test_netlink_says_what_proc_says(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        port = listener.getsockname()[1]
        assert list(sock_diag.listeners(port)) == [], "bound is not listening"
        listener.listen()
        found = list(sock_diag.listeners(port))
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        assert {inode for _, inode in found} == procfs.listening_inodes(tables, port) != frozenset()
        assert [address for address, _ in found] == [socket.inet_pton(family, host)]
