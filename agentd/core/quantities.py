"""Durations and sizes as systemd reads and writes them: "1min 30s", "500ms", "14G".

Durations are exact to the microsecond, like systemd's. A bare number is seconds, or bytes.
"""

from __future__ import annotations

import math
import re

MAX_SECONDS = 100 * 31557600
"""100 years; anything longer is a slip, and larger floats break calendar arithmetic."""
MAX_BYTES = 2**63 - 1

DURATION_FORM = 'a duration like "90s", "1min 30s" or "500ms", or a number of seconds'
SIZE_FORM = 'a size like "14G" or "512M" (K, M, G, T, P, E: powers of 1024), or a number of bytes'

_SECOND = 1_000_000
_UNITS = (
    ("y", 31557600 * _SECOND, ("y", "year", "years")),
    ("month", 2629800 * _SECOND, ("M", "month", "months")),
    ("w", 604800 * _SECOND, ("w", "week", "weeks")),
    ("d", 86400 * _SECOND, ("d", "day", "days")),
    ("h", 3600 * _SECOND, ("h", "hr", "hour", "hours")),
    ("min", 60 * _SECOND, ("m", "min", "minute", "minutes")),
    ("s", _SECOND, ("s", "sec", "second", "seconds", "")),
    ("ms", 1000, ("ms", "msec")),
    ("us", 1, ("us", "usec", "µs", "μs")),
)
_MICROSECONDS = {word: factor for _, factor, words in _UNITS for word in words}
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]+))?\s*([^\s0-9.]+|(?=\s|$))\s*")
_SUFFIXES = "BKMGTPE"


class QuantityError(ValueError):
    """Not a duration or a size; the text says why, without repeating the value."""


def parse_seconds(value: object) -> float:
    """Seconds from a systemd time span, or from a plain number of seconds. Raises QuantityError."""
    if isinstance(value, str):
        microseconds = _parse_span(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        microseconds = _from_number(value)
    else:
        raise QuantityError("expected a duration")
    if microseconds > MAX_SECONDS * _SECOND:
        raise QuantityError("is longer than 100y")
    return microseconds / _SECOND


def format_seconds(seconds: float) -> str:
    """The shortest text that `parse_seconds` reads back exactly: "1min 30s", "2.5s", "500ms", "0"."""
    rest = round(seconds * _SECOND)
    if rest == 0:
        return "0"
    parts = []
    for name, factor, _ in _UNITS:
        if rest < factor:
            continue
        if factor <= _SECOND:  # as systemd does: from here on one decimal number says the rest
            parts.append(_decimal(rest, factor) + name)
            break
        count, rest = divmod(rest, factor)
        parts.append(f"{count}{name}")
        if rest == 0:
            break
    return " ".join(parts)


def parse_bytes(value: object) -> int:
    """Bytes from a number with a 1024-based suffix, or from an integer. Raises QuantityError."""
    if isinstance(value, str):
        size = _parse_size(value.strip())
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise QuantityError("expected a size")
    if size < 0:
        raise QuantityError("must not be negative")
    if size > MAX_BYTES:
        raise QuantityError("must be less than 8E")
    return size


def format_bytes(size: int) -> str:
    """The largest suffix that divides exactly ("14G", "1536M"); a bare number where none does."""
    if size == 0:
        return "0"
    power = 0
    while size % 1024 == 0 and power < len(_SUFFIXES) - 1:
        size //= 1024
        power += 1
    return f"{size}{_SUFFIXES[power]}" if power else str(size)


def told_bytes(size: int) -> str:
    """For a person to read: "14G", "14.4G", "512M", "3K". What is measured is never a round number."""
    if 0 < size < 1024**2:
        return f"{max(1, size // 1024)}K"
    value, unit = size / 1024**2, "M"
    if value >= 1024:
        value, unit = value / 1024, "G"
    return f"{value:.1f}".removesuffix(".0") + unit


def _from_number(value: float) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        raise QuantityError("must be finite")
    if value < 0:
        raise QuantityError("must not be negative")
    # The bound comes before the product: an integer of a TOML file may exceed every float.
    return (MAX_SECONDS + 1) * _SECOND if value > MAX_SECONDS else round(value * _SECOND)


def _parse_span(text: str) -> int:
    if not text:
        raise QuantityError("is empty")
    if text == "infinity":
        raise QuantityError("must be finite")
    if text.startswith("-"):
        raise QuantityError("must not be negative")
    total, at = 0, 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None or not (term[1] or term[2]):
            raise QuantityError("is not a duration")
        if term[3] not in _MICROSECONDS:
            raise QuantityError(f'has an unknown time unit "{term[3]}"')
        total += _scaled(term[1], term[2], _MICROSECONDS[term[3]])
        at = term.end()
    return total


def _parse_size(text: str) -> int:
    if not text:
        raise QuantityError("is empty")
    if text == "infinity":
        raise QuantityError("must be finite")
    if text.startswith("-"):
        raise QuantityError("must not be negative")
    term = _TERM.fullmatch(text)
    if term is None or not (term[1] or term[2]):
        raise QuantityError("is not a size")
    unit = term[3] or "B"
    if len(unit) != 1 or unit not in _SUFFIXES:
        guess = unit[0].upper()
        better = f', did you mean "{guess}"?' if guess in _SUFFIXES else ""
        raise QuantityError(f'has an unknown size unit "{unit}"{better}')
    return _scaled(term[1], term[2], 1024 ** _SUFFIXES.index(unit))


def _scaled(whole: str, fraction: str | None, factor: int) -> int:
    """A decimal number times `factor`, rounded down. Digits beyond 30 only make it larger than any bound."""
    whole = whole.lstrip("0")[:30]
    fraction = (fraction or "")[:30]
    scale: int = 10 ** len(fraction)
    return int(whole or "0") * factor + int(fraction or "0") * factor // scale


def _decimal(value: int, factor: int) -> str:
    whole, rest = divmod(value, factor)
    digits = f"{rest:0{len(str(factor)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
