"""One connection to Redis, by redis-py. The library takes 50 ms and 10 MB: import this file late, and in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Sequence
from typing import Any

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, ResponseError

from agentd.adapters.conversation import TooLarge
from agentd.adapters.redis_ping import Address
from agentd.adapters.redis_words import Trouble, trouble

LARGEST = 1024 * 1024
"""Bytes of one answer; INFO has some 10 KB. More is not taken, whoever sends it."""

MOST_LINES = 4000
"""Lines of one answer beside its texts; a list of n words has 1 + n. Each takes time of the loop."""

_TYPES = (b"+", b"-", b":", b"$", b"*")


class Line:
    """Ask one question at a time. An error other than the server's answer ends the connection: open a new one then."""

    def __init__(self, link: Any) -> None:
        self._link = link

    @classmethod
    async def open(cls, where: Address, user: str, password: str | None) -> Line:
        """Connected, and known to the server when there is a user or a password. No deadline. Raises Trouble.

        The password is only sent: the library does not hold it, and its handshake (HELLO, CLIENT SETINFO), which a
        narrow ACL refuses, is not made.
        """
        line = cls(_Link(where))
        try:
            await line._connect()
            if user or password is not None:
                await line.ask("AUTH", *([user] if user else []), password or "")
        except BaseException:
            line.drop()
            raise
        return line

    async def ask(self, *command: str) -> object:
        """The answer: text, a number, None, or a list of them. Raises Trouble."""
        if not self._link.is_connected:  # redis-py would connect anew, without a password
            raise Trouble("redis-unreachable", "the connection was closed")
        self._link.begin()
        words = [word.encode("utf-8", "surrogateescape") for word in command]
        whole = False
        try:
            await self._link.send_command(*words, check_health=False)
            answer: object = await self._link.read_response()
            whole = True
            return answer
        except Exception as error:
            whole = isinstance(error, ResponseError) and not isinstance(error, AuthenticationError)
            problem = trouble(error, command)
        finally:
            if not whole:
                self.drop()
        raise problem

    async def _connect(self) -> None:
        try:
            await self._link.connect()
            return
        except Exception as error:
            problem = trouble(error, ())
        raise problem

    @property
    def usable(self) -> bool:
        """Open, and nothing came that nobody asked for, be it the end."""
        return bool(self._link.is_connected) and not self._link.heard()

    def drop(self) -> None:
        """Close at once, whatever was not yet sent."""
        self._link.drop()


class _Link(AbstractConnection):
    """redis-py's connection on a stream of our own: TCP or a unix socket, limited, and silent when it is collected."""

    def __init__(self, where: Address) -> None:
        self._where = where
        self._stream: asyncio.StreamWriter | None = None
        self._loop = asyncio.get_running_loop()
        options: dict[str, Any] = {
            "protocol": 2,
            "parser_class": _AsyncRESP2Parser,  # not the one in C: _Limited knows how this one reads
            "decode_responses": True,
            "encoding_errors": "replace",
            "socket_timeout": None,  # the caller has a deadline for everything together
            "socket_connect_timeout": None,
        }
        try:
            super().__init__(**options, driver_info=None)
        except TypeError:  # older than 7.1, which has other names for it
            super().__init__(**options, lib_name=None, lib_version=None)

    def __del__(self, _warnings: Any = None) -> None:
        # A transport may be closed only from its own loop; elsewhere it ends with its socket.
        with contextlib.suppress(RuntimeError, AttributeError):
            if asyncio.get_running_loop() is self._loop:
                self.drop()

    async def _connect(self) -> None:
        if self._where.path:
            reader, writer = await asyncio.open_unix_connection(self._where.path)
        else:
            reader, writer = await asyncio.open_connection(self._where.host, self._where.port)
        self._stream = writer
        self._reader: Any = _Limited(reader)
        self._writer: Any = writer

    def repr_pieces(self) -> Sequence[tuple[str, object]]:
        return [("at", self._host_error())]

    def _host_error(self) -> str:
        return self._where.path or f"{self._where.host}:{self._where.port}"

    def begin(self) -> None:
        if self._reader is not None:
            self._reader.begin()

    def heard(self) -> bool:
        """Is there anything to read, or the end? A look at the socket itself: the loop may not have noticed yet."""
        if self._stream is None or self._stream.transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self._stream.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(poll.poll(0)) or self._reader is None or bool(self._reader.at_eof())

    def drop(self) -> None:
        stream, self._stream = self._stream, None
        self._reader = self._writer = None
        if stream is not None:
            stream.transport.abort()


class _Limited:
    """A StreamReader for one answer of Redis: another program on that port may send anything, and for ever."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._bytes = self._lines = 0

    def begin(self) -> None:
        """The next answer."""
        self._bytes = self._lines = 0

    async def readline(self) -> bytes:
        line = self._counted(await self._reader.readline())
        self._lines += 1
        if self._lines > MOST_LINES:
            raise TooLarge
        if line.endswith(b"\n") and (line[:1] not in _TYPES or not line.endswith(b"\r\n")):
            raise ValueError("not the protocol of Redis")
        return line

    async def readexactly(self, size: int) -> bytes:
        if size > LARGEST:
            raise TooLarge
        return self._counted(await self._reader.readexactly(size))

    def at_eof(self) -> bool:
        return self._reader.at_eof()

    def _counted(self, data: bytes) -> bytes:
        self._bytes += len(data)
        if self._bytes > LARGEST:
            raise TooLarge
        return data
