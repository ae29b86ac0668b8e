"""A D-Bus stream: address, authentication, and whole messages in both directions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from time import perf_counter
from urllib.parse import unquote

from agentd.core.dbus_frame import frame_size
from agentd.errors import BusError
from agentd.types import Scope

READ_BUDGET = 0.005
"""Seconds that one pass over received messages may hold the event loop."""
_LONGEST_AUTH_LINE = 16384


def bus_address(scope: Scope, environ: Mapping[str, str] | None = None) -> str:
    """Where the manager of this scope is reached. Never guessed by a library: cron and ssh have no environment."""
    if scope is Scope.SYSTEM:
        return "unix:path=/run/dbus/system_bus_socket"
    runtime = (os.environ if environ is None else environ).get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return f"unix:path={runtime}/bus"


def socket_path(address: str) -> str:
    """The socket of the first unix address; abstract names begin with NUL. Raises BusError("bus-address")."""
    for part in address.split(";"):
        transport, _, text = part.partition(":")
        options = dict(item.split("=", 1) for item in text.split(",") if "=" in item)
        if transport == "unix" and "path" in options:
            return unquote(options["path"])
        if transport == "unix" and "abstract" in options:
            return "\0" + unquote(options["abstract"])
    raise BusError("bus-address", f"cannot use the bus address {address!r}: it names no unix socket")


class Stream(asyncio.Protocol):
    """Authenticates, then hands every whole message to `on_frame`, at most READ_BUDGET seconds in a row.

    `ready` is done once authenticated and fails with ConnectionError otherwise; `on_lost` comes exactly once.
    """

    def __init__(self, on_frame: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._draining = False
        self._authenticated = False
        self._reason = ""
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        uid = str(os.getuid()).encode().hex().encode()
        # One write for both lines: systemd's private socket keeps a BEGIN that comes alone in its buffer.
        transport.write(b"\0AUTH EXTERNAL " + uid + b"\r\nBEGIN\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._authenticated and not self._authenticate():
            return
        if not self._draining:
            self._drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        reason = self._reason or (f"{exc}" if exc else "the bus closed the connection")
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
            self.ready.exception()  # nobody awaits it when the caller was cancelled
        self.closed.set()
        self._on_lost(reason)

    def send(self, frame: bytes) -> None:
        """Queue a message; asyncio's transport keeps what the socket does not take at once."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError(self._reason or "the connection is closed")
        self._transport.write(frame)

    def abort(self, reason: str) -> None:
        """Drop the connection; `on_lost` follows in the next turn of the loop."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def _authenticate(self) -> bool:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            if len(self._buffer) > _LONGEST_AUTH_LINE:
                self.abort("authentication failed: endless answer")
            return False
        if not line.startswith(b"OK"):
            self.abort(f"authentication failed: {bytes(line[:200]).decode(errors='replace')}")
            return False
        self._buffer = rest
        self._authenticated = True
        if not self.ready.done():
            self.ready.set_result(None)
        return True

    def _drain(self) -> None:
        self._draining = False
        if self._transport is None:
            return
        try:
            finished = self._deliver()
        except ValueError as error:
            self.abort(f"not a D-Bus message: {error}")
            return
        if finished:
            self._transport.resume_reading()
            return
        self._draining = True
        self._transport.pause_reading()
        self._loop.call_soon(self._drain)

    def _deliver(self) -> bool:
        """Hand over whole messages; False when the time is used up before the buffer."""
        end = perf_counter() + READ_BUDGET
        buffer, start = self._buffer, 0
        try:
            while (size := frame_size(buffer, start)) and len(buffer) - start >= size:
                frame = bytes(buffer[start : start + size])
                start += size
                self._on_frame(frame)
                if perf_counter() > end:
                    return False
        finally:
            del buffer[:start]
        return True


async def open_stream(
    address: str, on_frame: Callable[[bytes], None], on_lost: Callable[[str], None], timeout: float
) -> Stream:
    """Connect and authenticate. Raises BusError("bus-down") with the reason."""
    path = socket_path(address)
    shown = path.replace("\0", "@")
    loop = asyncio.get_running_loop()
    stream: Stream | None = None
    try:
        async with asyncio.timeout(timeout):
            _, stream = await loop.create_unix_connection(lambda: Stream(on_frame, on_lost), path)
            await stream.ready
        return stream
    except TimeoutError as error:
        reason = f"no answer within {timeout:g} s"
        await _discard(stream, reason)
        raise BusError("bus-down", f"cannot connect to the bus at {shown}: {reason}") from error
    except OSError as error:
        reason = error.strerror.lower() if error.strerror else str(error)
        await _discard(stream, reason)
        raise BusError("bus-down", f"cannot connect to the bus at {shown}: {reason}") from error
    except BaseException:
        if stream is not None:
            stream.abort("cancelled")
        raise


async def _discard(stream: Stream | None, reason: str) -> None:
    if stream is not None:
        stream.abort(reason)
        await stream.closed.wait()
