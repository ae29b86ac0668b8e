"""Times as a user writes them ("90s", "1h 30min", "2m", "45") and as one reads them."""

from __future__ import annotations

import re

_UNITS = {
    "ms": 0.001, "msec": 0.001,
    "": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
    "w": 604800.0, "week": 604800.0, "weeks": 604800.0,
}  # fmt: skip
_TERM = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)")
MOST = 10 * 365 * 86400.0


def parse(text: str) -> float:
    """Seconds. Raises ValueError with a sentence for the user."""
    total, at = 0.0, 0
    stripped = text.strip()
    while at < len(stripped):
        term = _TERM.match(stripped, at)
        if term is None or term[2] not in _UNITS:
            break
        total += float(term[1]) * _UNITS[term[2]]
        at = term.end()
    if not stripped or at < len(stripped):
        raise ValueError(f'"{text}" is not a time; write it like 90s, 2min or 1h 30min')
    if total > MOST:
        raise ValueError(f'"{text}" is longer than ten years')
    return total


def span(seconds: float) -> str:
    """Two significant parts at most: "0.31 s", "12.4 s", "3 min 20 s", "5 h 12 min", "3 days"."""
    if seconds < 10:
        return f"{max(0.0, seconds):.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return _two(whole, 60, "min", 1, "s")
    if whole < 86400:
        return _two(whole, 3600, "h", 60, "min")
    days = whole // 86400
    return f"{days} day{'s' if days != 1 else ''}"


def ago(then: float, now: float) -> str:
    """ "" for a time that is not known; coarse, for a table."""
    if not then:
        return ""
    seconds = max(0, round(now - then))
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name} ago"
    return f"{seconds} s ago"


def _two(seconds: int, size: int, name: str, small: int, small_name: str) -> str:
    count, rest = divmod(seconds, size)
    rest //= small
    return f"{count} {name}" + (f" {rest} {small_name}" if rest else "")
