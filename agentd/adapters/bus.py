"""A client connection to a message bus: calls with a deadline, signals, and a death that is noticed.

Bodies are encoded and decoded by dbus-next, or by dbus-fast where it is installed (AGENTD_DBUS=auto|next|fast).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from agentd.adapters.bus_codec import Codec, choose
from agentd.adapters.bus_errors import reply_error
from agentd.adapters.bus_transport import Stream, open_stream
from agentd.core.dbus_frame import ERROR, METHOD_RETURN, SIGNAL, Header, header_key, parse_header
from agentd.errors import BusError

logger = logging.getLogger(__name__)

CALL_TIMEOUT = 10.0
CONNECT_TIMEOUT = 5.0
_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"
_CACHED_HEADERS = 2048


class Signal:
    """A received signal. The body is decoded only when asked for."""

    __slots__ = ("_codec", "_frame", "header")

    def __init__(self, header: Header, frame: bytes, codec: Codec) -> None:
        self.header = header
        self._frame = frame
        self._codec = codec

    def body(self) -> list[Any]:
        """Raises ValueError for broken bytes."""
        return [self._codec.plain(value) for value in self._codec.body(self._frame)]


class Bus:
    """Made by `connect()`; never reconnects: a dead Bus is dropped and a new one is made."""

    def __init__(self, codec: Codec, on_signal: Callable[[Signal], None]) -> None:
        self._codec = codec
        self._on_signal = on_signal
        self._stream: Stream | None = None
        self._serial = 0
        self._pending: dict[int, asyncio.Future[tuple[Header, bytes]]] = {}
        self._headers: dict[bytes, Header] = {}
        self._lost = ""
        self.unique_name = ""

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        on_signal: Callable[[Signal], None] = lambda _: None,
        library: str = "auto",
        timeout: float = CONNECT_TIMEOUT,
    ) -> Bus:
        """Connect, authenticate and say Hello. Raises BusError("bus-down" or "bus-address").

        `on_signal` runs in the loop for every signal that arrives and must not block.
        """
        bus = cls(choose(library), on_signal)
        bus._stream = await open_stream(address, bus._received, bus._connection_lost, timeout)
        try:
            (bus.unique_name,) = await bus.call(_BUS, _BUS_PATH, _BUS, "Hello", timeout=timeout)
        except BaseException:
            bus._stream.abort("no Hello")
            raise
        return bus

    @property
    def connected(self) -> bool:
        return self._stream is not None and not self._stream.closed.is_set()

    @property
    def library(self) -> str:
        return self._codec.name

    @property
    def lost_because(self) -> str:
        return self._lost

    async def wait_closed(self) -> None:
        """Return once the connection is gone, whoever ended it."""
        if self._stream is not None:
            await self._stream.closed.wait()

    async def close(self) -> None:
        """Close the socket now; calls in flight fail with "bus-down". Idempotent."""
        if self._stream is not None:
            self._stream.abort("closed by agentd")
            await self._stream.closed.wait()

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        timeout: float = CALL_TIMEOUT,
        doing: str = "",
    ) -> list[Any]:
        """The reply's arguments as plain values. Raises BusError; `doing` completes its "cannot ..."."""
        frame = await self._exchange((destination, path, interface, member), signature, body, timeout, doing)
        return [self._codec.plain(value) for value in self._decode(frame, doing or f"call {member}")]

    async def properties(
        self,
        destination: str,
        path: str,
        interface: str,
        wanted: Collection[str],
        *,
        timeout: float = CALL_TIMEOUT,
        doing: str = "",
    ) -> dict[str, Any]:
        """The wanted properties of one interface, by one call."""
        target = (destination, path, f"{_BUS}.Properties", "GetAll")
        doing = doing or "read properties"
        frame = await self._exchange(target, "s", [interface], timeout, doing)
        try:
            return self._codec.entries(frame, wanted)
        except ValueError as error:
            raise BusError("bus-error", f"cannot {doing}: {error}") from error

    def variant(self, signature: str, value: Any) -> Any:
        """A value of D-Bus type "v" for the body of a call."""
        return self._codec.variant(signature, value)

    async def add_match(self, rule: str, *, timeout: float = CALL_TIMEOUT) -> None:
        await self.call(_BUS, _BUS_PATH, _BUS, "AddMatch", "s", [rule], timeout=timeout, doing="subscribe to signals")

    async def remove_match(self, rule: str, *, timeout: float = CALL_TIMEOUT) -> None:
        await self.call(_BUS, _BUS_PATH, _BUS, "RemoveMatch", "s", [rule], timeout=timeout, doing="drop a signal match")

    async def name_owner(self, name: str, *, timeout: float = CALL_TIMEOUT) -> str:
        """The unique name of the owner. Raises BusError("manager-gone") when nobody has it."""
        (owner,) = await self.call(_BUS, _BUS_PATH, _BUS, "GetNameOwner", "s", [name], timeout=timeout)
        return str(owner)

    async def _exchange(
        self, target: tuple[str, str, str, str], signature: str, body: Sequence[Any], timeout: float, doing: str
    ) -> bytes:
        doing = doing or f"call {target[3]}"
        if self._stream is None or not self.connected:
            raise BusError("bus-down", f"cannot {doing}: the bus is gone ({self._lost})")
        self._serial = self._serial % 0xFFFFFFFF + 1
        serial = self._serial
        future: asyncio.Future[tuple[Header, bytes]] = asyncio.get_running_loop().create_future()
        self._pending[serial] = future
        try:
            self._stream.send(self._codec.call(serial, target, signature, body))
            async with asyncio.timeout(timeout):
                header, frame = await future
        except TimeoutError as error:
            raise BusError("bus-timeout", f"cannot {doing}: no answer from {target[0]} within {timeout:g} s") from error
        except ConnectionError as error:
            raise BusError("bus-down", f"cannot {doing}: the bus is gone ({error})") from error
        finally:
            self._pending.pop(serial, None)
        if header.kind == ERROR:
            text = self._decode(frame, doing) if header.signature.startswith("s") else [""]
            raise reply_error(header.error_name, text[0], doing)
        return frame

    def _decode(self, frame: bytes, doing: str) -> list[Any]:
        try:
            return self._codec.body(frame)
        except ValueError as error:
            raise BusError("bus-error", f"cannot {doing}: {error}") from error

    def _received(self, frame: bytes) -> None:
        """Raises ValueError for a broken header, which ends the connection."""
        if frame[1] == SIGNAL:
            self._signal(frame)
        elif frame[1] in (METHOD_RETURN, ERROR):
            header = parse_header(frame)
            future = self._pending.get(header.reply_serial)
            if future is not None and not future.done():
                future.set_result((header, frame))

    def _signal(self, frame: bytes) -> None:
        key = header_key(frame)
        header = self._headers.get(key)
        if header is None:
            if len(self._headers) >= _CACHED_HEADERS:
                self._headers.clear()
            header = self._headers[key] = parse_header(frame)
        try:
            self._on_signal(Signal(header, frame, self._codec))
        except Exception:
            logger.exception("a signal handler failed on %s.%s", header.interface, header.member)

    def _connection_lost(self, reason: str) -> None:
        self._lost = reason
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ConnectionError(reason))
