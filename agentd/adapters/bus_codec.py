"""Messages to bytes and bodies to values: the only part of the bus that knows a D-Bus library.

dbus-next and dbus-fast share their names; the connection itself is ours (bus_transport.py), because the
connections of both lose calls when the socket's buffer is full, and dbus-next's also hangs on a dead bus,
freezes the loop at an end of file during authentication and starves it under a flood.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agentd.core.dbus_value import wanted_entries
from agentd.errors import AgentdError

LIBRARIES = {"fast": "dbus_fast", "next": "dbus_next"}


class Codec:
    """Marshalling by one library; `name` is "next" or "fast"."""

    def __init__(self, name: str) -> None:
        package = LIBRARIES[name]
        library = importlib.import_module(package)
        self.name = name
        self._message: Any = library.Message
        self._variant: Any = library.Variant
        self._flags: Any = library.MessageFlag.NO_AUTOSTART
        self._unmarshaller: Any = importlib.import_module(f"{package}._private.unmarshaller").Unmarshaller

    def call(self, serial: int, target: Sequence[str], signature: str, body: Sequence[Any]) -> bytes:
        """A method call; `target` is (destination, path, interface, member). Never starts a service."""
        destination, path, interface, member = target
        message = self._message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=self._flags,
            serial=serial,
        )
        return bytes(message._marshall(False))

    def body(self, frame: bytes) -> list[Any]:
        """The arguments of a whole message, variants still wrapped. Raises ValueError for broken bytes."""
        try:
            message = self._unmarshaller(io.BytesIO(frame)).unmarshall()
        except Exception as error:
            # The libraries raise anything from struct.error to their own classes here.
            raise ValueError(f"broken body: {error}") from error
        if message is None:
            raise ValueError("broken body: it ends early")
        return list(message.body)

    def entries(self, frame: bytes, wanted: Collection[str]) -> dict[str, Any]:
        """The wanted entries of an a{sv} body, by the way that is quickest with this library."""
        if self.name == "next":
            return wanted_entries(frame, wanted)
        (found,) = self.body(frame)
        return {name: self.plain(found[name]) for name in wanted if name in found}

    def variant(self, signature: str, value: Any) -> Any:
        return self._variant(signature, value)

    def plain(self, value: Any) -> Any:
        """The value without Variant wrappers, at any depth."""
        if isinstance(value, self._variant):
            return self.plain(value.value)
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        return value


def choose(name: str = "auto", environ: Mapping[str, str] | None = None) -> Codec:
    """The codec called `name`; "auto" takes AGENTD_DBUS, else dbus-fast where it is installed."""
    if name == "auto":
        name = (os.environ if environ is None else environ).get("AGENTD_DBUS", "auto") or "auto"
    if name == "auto":
        try:
            return Codec("fast")
        except ImportError:
            return Codec("next")
    if name not in LIBRARIES:
        raise AgentdError(
            "config-invalid", f"cannot use the D-Bus library {name!r} (AGENTD_DBUS): allowed are auto, next, fast"
        )
    try:
        return Codec(name)
    except ImportError as error:
        raise AgentdError(
            "config-invalid",
            f"cannot use the D-Bus library {name!r} (AGENTD_DBUS): {error}",
            hint="install it, or unset AGENTD_DBUS",
        ) from error
