"""A connection for one question and its answer, on a bare socket: a probe is most of what an idle daemon does, and a
client library takes five times the CPU for it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

_PIECE = 65536


class BrokenOff(Exception):
    """The other side closed the connection. `empty`: before it said anything at all."""

    def __init__(self, *, empty: bool) -> None:
        super().__init__("the server closed the connection without an answer" if empty else "the answer broke off")


class TooLarge(Exception):
    """More came than is read."""


class Conversation:
    """No deadline of its own: use asyncio.timeout around it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._heard = False

    async def say(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def until(self, mark: bytes, most: int) -> bytes:
        """What comes before `mark`, which is taken too. Raises BrokenOff, TooLarge."""
        while mark not in self._buffer:
            if len(self._buffer) > most:
                raise TooLarge
            if not await self._more():
                raise BrokenOff(empty=not self._heard)
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    async def exactly(self, size: int) -> bytes:
        """Raises BrokenOff."""
        while len(self._buffer) < size:
            if not await self._more():
                raise BrokenOff(empty=not self._heard)
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    async def rest(self, most: int) -> bytes:
        """All that comes until the other side closes. Raises TooLarge."""
        while len(self._buffer) <= most:
            if not await self._more():
                return self._buffer
        raise TooLarge

    async def _more(self) -> bool:
        data = await self._loop.sock_recv(self._socket, _PIECE)
        self._buffer += data
        self._heard = self._heard or bool(data)
        return bool(data)


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[socket.socket]:
    """A TCP connection to the first address that takes one. Raises OSError, OverflowError (the port)."""
    failure: OSError | None = None
    for family, address in await _addresses(host, port):
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as connection:
            try:
                await asyncio.get_running_loop().sock_connect(connection, address)
            except OSError as error:
                failure = error
                continue
            yield connection
            return
    raise failure or OSError(errno.EADDRNOTAVAIL, "no address")


@asynccontextmanager
async def connected_unix(path: str) -> AsyncIterator[socket.socket]:
    """Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as connection:
        await asyncio.get_running_loop().sock_connect(connection, path)
        yield connection


async def _addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    try:
        version = ip_address(host).version
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address[:2]) for family, _, _, _, address in found]  # type: ignore[misc]
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
