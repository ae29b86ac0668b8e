"""The outside of a D-Bus message: where it ends and what its header says.

The body stays bytes until somebody wants it. Under a flood of signals that is the difference between a
microsecond and a third of a millisecond per message, since agentd only needs to know which object changed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

FIXED = 16
"""Bytes before the header fields."""
LARGEST = 128 << 20
"""The specification's limit of one message."""

METHOD_RETURN = 2
ERROR = 3
SIGNAL = 4

_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _SENDER, _SIGNATURE = 1, 2, 3, 4, 5, 7, 8
_LITTLE = struct.Struct("<I")
_BIG = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Header:
    """The header fields that a client reads; "" or 0 where the message has none."""

    kind: int
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    sender: str = ""
    signature: str = ""


def frame_size(buffer: bytes | bytearray, start: int) -> int:
    """Length of the message that begins at `start`, or 0 while its fixed part is incomplete.

    Raises ValueError for bytes that are no D-Bus message.
    """
    if len(buffer) - start < FIXED:
        return 0
    u32 = _word(buffer[start])
    if buffer[start + 3] != 1:
        raise ValueError(f"protocol version {buffer[start + 3]}")
    body = u32.unpack_from(buffer, start + 4)[0]
    fields = u32.unpack_from(buffer, start + 12)[0]
    size: int = FIXED + (fields + 7 & ~7) + body
    if size > LARGEST:
        raise ValueError(f"a message of {size} bytes")
    return size


def header_key(frame: bytes) -> bytes:
    """Equal for two signals of the same sender, path, interface, member and signature: only serials differ.

    The length word goes in with the fields, the body's length stays out.
    """
    return frame[12 : FIXED + _word(frame[0]).unpack_from(frame, 12)[0]]


def parse_header(frame: bytes) -> Header:
    """Raises ValueError when the header is broken."""
    try:
        fields = _fields(frame)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"broken header: {error}") from error
    serial = fields.get(_REPLY_SERIAL, 0)
    return Header(
        kind=frame[1],
        path=str(fields.get(_PATH, "")),
        interface=str(fields.get(_INTERFACE, "")),
        member=str(fields.get(_MEMBER, "")),
        error_name=str(fields.get(_ERROR_NAME, "")),
        reply_serial=serial if isinstance(serial, int) else 0,
        sender=str(fields.get(_SENDER, "")),
        signature=str(fields.get(_SIGNATURE, "")),
    )


def _word(order: int) -> struct.Struct:
    if order == ord("l"):
        return _LITTLE
    if order == ord("B"):
        return _BIG
    raise ValueError(f"byte order mark {order:#04x}")


def _fields(frame: bytes) -> dict[int, str | int]:
    u32 = _word(frame[0])
    end = FIXED + u32.unpack_from(frame, 12)[0]
    found: dict[int, str | int] = {}
    at = FIXED
    while at < end:
        at = at + 7 & ~7
        code, length = frame[at], frame[at + 1]
        kind = frame[at + 2 : at + 2 + length]
        at += 3 + length
        if kind == b"g":
            size, at = frame[at], at + 1
        elif kind in (b"s", b"o", b"u"):
            at = at + 3 & ~3
            size, at = u32.unpack_from(frame, at)[0], at + 4
        else:
            raise ValueError(f"header field {code} of type {kind!r}")
        if kind == b"u":
            found[code] = size
            continue
        found[code] = frame[at : at + size].decode()
        at += size + 1
    return found
