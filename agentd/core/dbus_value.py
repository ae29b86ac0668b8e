"""The few wanted entries of a large a{sv} body, without decoding the rest.

systemd answers GetAll with some 230 properties, of which agentd needs 6; whatever has a length is stepped over.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from agentd.core.dbus_frame import FIXED

_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_SIZES = {code: struct.calcsize("=" + letter) for code, letter in _FIXED.items()}
_ALIGN = _SIZES | {"s": 4, "o": 4, "a": 4, "g": 1, "v": 1, "(": 8, "{": 8}
_DEEPEST = 64


def wanted_entries(frame: bytes, wanted: Collection[str]) -> dict[str, Any]:
    """Of a message with signature a{sv}. Raises ValueError for broken bytes or another signature."""
    try:
        return _Reader(frame).entries({name.encode(): name for name in wanted})
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"broken body: {error!r}") from error


@lru_cache(maxsize=1024)
def _members(signature: str) -> tuple[str, ...]:
    """The complete types that a signature is made of."""
    found, start = [], 0
    while start < len(signature):
        end = _type_end(signature, start, 0)
        found.append(signature[start:end])
        start = end
    return tuple(found)


def _type_end(signature: str, at: int, depth: int) -> int:
    if depth > _DEEPEST:
        raise ValueError("a signature nested too deeply")
    code = signature[at]
    if code == "a":
        return _type_end(signature, at + 1, depth + 1)
    if code not in "({":
        return at + 1
    closing = ")" if code == "(" else "}"
    at += 1
    while signature[at] != closing:
        at = _type_end(signature, at, depth + 1)
    return at + 1


class _Reader:
    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._order = "<" if frame[0] == ord("l") else ">"
        self._u32 = struct.Struct(self._order + "I").unpack_from
        self._body = FIXED + (self._u32(frame, 12)[0] + 7 & ~7)

    def entries(self, wanted: dict[bytes, str]) -> dict[str, Any]:
        frame, u32 = self._frame, self._u32
        at = self._body
        end = at + 8 + u32(frame, at)[0]
        if end > len(frame):
            raise ValueError("broken body: it ends early")
        at += 8  # the length word, and padding to the first entry
        found: dict[str, Any] = {}
        while at < end:
            at = at + 7 & ~7
            size = u32(frame, at)[0]
            name = wanted.get(frame[at + 4 : at + 4 + size])
            at += 5 + size
            signature = frame[at + 1 : at + 1 + frame[at]].decode()
            at += 2 + frame[at]
            if name is None:
                at = self._skip(signature, at)
            else:
                found[name], at = self._read(signature, at)
        return found

    def _skip(self, signature: str, at: int) -> int:
        code = signature[0]
        align = _ALIGN[code]
        at = at + align - 1 & -align
        if code in _SIZES:
            return at + align
        if code in "so":
            return at + 5 + int(self._u32(self._frame, at)[0])
        if code == "g":
            return at + 2 + self._frame[at]
        if code == "a":
            size, start = self._array(signature, at)
            return start + size
        if code == "v":
            inner, at = self._signature(at)
            return self._skip(inner, at)
        for member in _members(signature[1:-1]):
            at = self._skip(member, at)
        return at

    def _read(self, signature: str, at: int) -> tuple[Any, int]:
        code = signature[0]
        align = _ALIGN[code]
        at = at + align - 1 & -align
        frame = self._frame
        if code in _SIZES:
            value = struct.unpack_from(self._order + _FIXED[code], frame, at)[0]
            return (bool(value) if code == "b" else value), at + align
        if code in "so":
            size = self._u32(frame, at)[0]
            return frame[at + 4 : at + 4 + size].decode(), at + 5 + size
        if code == "g":
            return self._signature(at)
        if code == "a":
            return self._read_array(signature, at)
        if code == "v":
            inner, at = self._signature(at)
            return self._read(inner, at)
        values = []
        for member in _members(signature[1:-1]):
            value, at = self._read(member, at)
            values.append(value)
        return values, at

    def _read_array(self, signature: str, at: int) -> tuple[Any, int]:
        size, at = self._array(signature, at)
        end = at + size
        if end > len(self._frame):
            raise ValueError("broken body: an array ends early")
        if signature == "ay":
            return self._frame[at:end], end
        items = []
        while at < end:
            item, at = self._read(signature[1:], at)
            items.append(item)
        return (dict(items) if signature[1] == "{" else items), end

    def _array(self, signature: str, at: int) -> tuple[int, int]:
        """Its size in bytes, and where its first element stands."""
        align = _ALIGN[signature[1]]
        return self._u32(self._frame, at)[0], at + 4 + align - 1 & -align

    def _signature(self, at: int) -> tuple[str, int]:
        size = self._frame[at]
        return self._frame[at + 1 : at + 1 + size].decode(), at + 2 + size
