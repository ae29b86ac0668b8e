"""Loaded values for a reader: sizes with a suffix, masks as names, long lists as their length. Pure."""

from __future__ import annotations

from agentd.core import loaded_values as values
from agentd.core.directives_spec import Kind
from agentd.core.loaded_values import INFINITY
from agentd.core.quantities import format_bytes, format_seconds

_MOST_WORDS = 8


def size_text(size: int) -> str:
    """ "2G", "infinity"."""
    return "infinity" if size >= INFINITY else format_bytes(size)


def human(kind: Kind, value: object) -> str:
    """ "" for None. Credentials are never shown: only the first word of a structure is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _number(kind, value)
    if isinstance(value, str):
        return value
    if kind is Kind.LIMIT and isinstance(value, tuple):
        soft, hard = (size_text(part) if part >= INFINITY else str(part) for part in value)
        return soft if soft == hard else f"{soft}:{hard}"
    if isinstance(value, frozenset) and kind is Kind.BITMAP:
        return ranges(value)
    if isinstance(value, list | tuple | set | frozenset):
        return _words([_word(item) for item in value])
    return str(value)


def _number(kind: Kind, value: int) -> str:
    if kind is Kind.CAPABILITIES:
        return values.capability_names(value)
    if kind is Kind.NAMESPACES:
        allowed = value & values.ALL_NAMESPACES
        return "no" if allowed == values.ALL_NAMESPACES else values.denied_namespaces(allowed)
    if value >= INFINITY:
        return "infinity"
    if kind is Kind.SIZE:
        return format_bytes(value)
    if kind is Kind.QUOTA:
        return f"{value / 10_000:g}%"
    if kind is Kind.SPAN:
        return format_seconds(value / 1_000_000)
    if kind is Kind.SCHEDULER:
        return next((name for name, number in values.SCHEDULERS.items() if number == value), str(value))
    return f"{value:04o}" if kind is Kind.OCTAL else str(value)


def _word(item: object) -> str:
    first = item[0] if isinstance(item, list | tuple) and item else item
    if isinstance(first, bytes | int):
        return "..."
    return str(first)


def _words(found: list[str]) -> str:
    if len(found) > _MOST_WORDS:
        return f"{len(found)} entries"
    return " ".join(found)


def ranges(numbers: frozenset[int]) -> str:
    """ "0-3,5"."""
    parts: list[str] = []
    ordered = sorted(numbers)
    start = 0
    for at, number in enumerate(ordered):
        if at + 1 == len(ordered) or ordered[at + 1] != number + 1:
            parts.append(str(number) if at == start else f"{ordered[start]}-{number}")
            start = at + 1
    return ",".join(parts)
