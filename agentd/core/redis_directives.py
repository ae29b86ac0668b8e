"""The directives that decide whether data is kept: their defaults, and values as CONFIG GET shows them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.redis_args import split

DEFAULTS: Mapping[str, str] = {
    "appendonly": "no",
    "appendfsync": "everysec",
    "save": "3600 1 300 100 60 10000",
    "aof-use-rdb-preamble": "yes",
    "aof-load-truncated": "yes",
    "no-appendfsync-on-rewrite": "no",
    "stop-writes-on-bgsave-error": "yes",
    "auto-aof-rewrite-percentage": "100",
    "auto-aof-rewrite-min-size": "67108864",
    "appendfilename": "appendonly.aof",
    "appenddirname": "appendonlydir",
    "dbfilename": "dump.rdb",
    "dir": "./",
}
"""Of Redis 7.0, where neither a file nor an argument says anything."""

SECRET = frozenset(
    {
        *("requirepass", "masterauth", "masteruser", "user", "tls-key-file-pass", "tls-client-key-file-pass"),
        *("rename-command", "loadmodule"),
    }
)
"""Directives whose values are in no message."""
PASSWORDS = SECRET - {"masteruser", "rename-command", "loadmodule"}

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}
_SIZE = re.compile(r"([0-9]{0,127})([a-z]{0,2})", re.IGNORECASE)
_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")
_LONG = re.compile(r"[ \t\n\r\v\f]*([+-]?[0-9]+)|")
_MAX_LONG = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Points:
    """What one `save` line does."""

    reset: bool
    """It forgets what was said before."""
    pairs: tuple[str, ...]
    """Each "SECONDS CHANGES"."""


def save_points(args: Sequence[str]) -> Points | None:
    """None when the server refuses the line. One argument is split once more: save "900 1 300 10"."""
    if len(args) == 1 and args[0]:
        args = [word.text for word in split(args[0]) or ()]
    if list(args) == [""]:
        return Points(reset=True, pairs=())
    numbers = [_long(word) for word in args]
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    if len(args) % 2 or any(s is None or c is None or s < 1 or c < 0 for s, c in pairs):
        return None
    return Points(reset=False, pairs=tuple(f"{s} {_int(c or 0)}" for s, c in pairs))


def _long(text: str) -> int | None:
    """C's strtoll(), which takes an empty text for 0."""
    match = _LONG.fullmatch(text)
    return None if match is None else max(-_MAX_LONG - 1, min(int(match[1] or 0), _MAX_LONG))


def _int(number: int) -> int:
    """Stored in 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


def _yes_no(value: str) -> str | None:
    return value.lower() if value.lower() in ("yes", "no") else None


def _fsync(value: str) -> str | None:
    return value.lower() if value.lower() in ("everysec", "always", "no") else None


def _percentage(value: str) -> str | None:
    return value if _INTEGER.fullmatch(value) and int(value) < 2**31 else None


def _size(value: str) -> str | None:
    match = _SIZE.fullmatch(value)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        return None
    # strtoull() stops at its largest number; the product is cut to 64 bits.
    size = min(int(match[1] or 0), 2**64 - 1) * factor % 2**64
    return str(size) if size <= _MAX_LONG else None


def _save(value: str) -> str | None:
    points = save_points([value])
    return None if points is None else " ".join(points.pairs)


def _file_name(value: str) -> str | None:
    return value if value and "/" not in value and "\\" not in value else None


_KINDS: Mapping[str, Callable[[str], str | None]] = {
    "appendonly": _yes_no,
    "appendfsync": _fsync,
    "save": _save,
    "aof-use-rdb-preamble": _yes_no,
    "aof-load-truncated": _yes_no,
    "no-appendfsync-on-rewrite": _yes_no,
    "stop-writes-on-bgsave-error": _yes_no,
    "auto-aof-rewrite-percentage": _percentage,
    "auto-aof-rewrite-min-size": _size,
    "appendfilename": _file_name,
    "appenddirname": _file_name,
    "dbfilename": _file_name,
}


def normal(name: str, value: str) -> str | None:
    """The value as CONFIG GET shows it; None when the server refuses it. An unknown directive's stays as it is."""
    kind = _KINDS.get(name)
    return value if kind is None else kind(value)


def refusal(name: str, args: Sequence[str]) -> str:
    """Why the server would not start with such a line; "" when it would, or when the directive is not known here."""
    if name == "include":
        return "" if len(args) == 1 else "include needs one path"
    if name not in DEFAULTS:
        return ""
    if name == "save":
        return "" if save_points(args) is not None else "save needs pairs of seconds and changes"
    if len(args) != 1:
        return f"{name} needs one value"
    return "" if normal(name, args[0]) is not None else f"{name} cannot be {args[0]!r}"
