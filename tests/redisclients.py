"""Clients of real Redis servers, and peers that only pretend to be one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redisserver import RedisServer

from agentd.adapters.redis import RedisClient
from agentd.errors import AgentdError
from agentd.ports_redis import RedisAdmin, Target
from agentd.stores import RedisState

PATIENCE = 20.0
NOBODY = 65534


@contextmanager
def running(folder: Path, conf: str = "", **options: Any) -> Iterator[RedisServer]:
    server = RedisServer(folder, conf, **options)
    try:
        yield server.start()
    finally:
        server.kill()


@asynccontextmanager
async def asking(
    url: str, *, user: str = "", password: Callable[[], str] | str | None = None, timeout: float = PATIENCE
) -> AsyncIterator[RedisClient]:
    source = (lambda: password) if isinstance(password, str) else password
    client = RedisClient(Target("store", url, user=user, password=source), timeout=timeout)
    try:
        yield client
    finally:
        await client.close()


async def until(client: RedisAdmin, wanted: Callable[[RedisState], bool]) -> RedisState:
    """Redis tells nobody when a child has ended: it is asked until it has."""
    async with asyncio.timeout(PATIENCE):
        while not wanted(state := await client.state()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return state


async def first_state(client: RedisAdmin) -> RedisState:
    """As soon as the server takes connections, of which it tells nobody either."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await client.state()
            except AgentdError as error:
                if error.kind != "redis-unreachable":
                    raise
            await asyncio.sleep(0.01)


async def refused(call: Any, kind: str) -> AgentdError:
    """The error of a call that must fail with this kind, and shows nothing of what it came from."""
    with pytest.raises(AgentdError) as caught:
        await call
    assert caught.value.kind == kind, (caught.value.kind, caught.value.message)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    return caught.value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def powerless() -> Iterator[None]:
    """This thread meets files as nobody (setfsuid), if it is root's; others keep their rights."""
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0:
        libc.setfsuid(NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())


@asynccontextmanager
async def peer(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
) -> AsyncIterator[str]:
    """The address of something on a port of its own; `answer` has the connection until it returns."""
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served)
        await server.wait_closed()


async def command(reader: asyncio.StreamReader) -> list[str]:
    """One command as a client sends it; [] at the end."""
    head = await reader.readline()
    words: list[str] = []
    for _ in range(int(head[1:] or 0)):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2].decode())
    return words


def scripted(answers: Callable[[list[str]], bytes]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """A peer that answers each command with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await command(reader):
            writer.write(answers(words))
            await writer.drain()

    return serve


def bulk(text: str) -> bytes:
    data = text.encode()
    return b"$%d\r\n%s\r\n" % (len(data), data)
