"""Request bodies and query strings as typed values; everything that is wrong is listed at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from typing import Any, TypeVar, get_args, get_type_hints

from agentd.errors import AgentdError

T = TypeVar("T")

INTERNAL = frozenset({"origin"})
"""Fields that only agentd itself sets."""
CHOICES = {"on_busy": ("abort", "refuse")}
LEAST = {"keep": 1}
"""The least value of a count; others begin at 0."""
MOST = 1_000_000
MAX_SECONDS = 10 * 365 * 86400.0

_NAMES = {str: "a string", bool: "true or false", float: "a number", int: "a whole number", type(None): "null"}


def decode(cls: type[T], body: bytes) -> T:
    """The dataclass `cls` from a JSON object. Raises AgentdError("bad-request")."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in INTERNAL}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    given = _json_object(body)
    problems = [_unknown(name, list(fields)) for name in given if name not in fields]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            problem = _check(name, given[name], _alternatives(hints[name]))
            problems += [problem] if problem else []
            values[name] = given[name]
        elif field.default is dataclasses.MISSING:
            problems.append(f'"{name}" is missing')
    if problems:
        raise AgentdError("bad-request", "cannot read the request: " + "; ".join(problems))
    return cls(**values)


def number(text: str | None, name: str, *, default: int, most: int) -> int:
    """A query parameter that is a count."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) > most:
        raise AgentdError("bad-request", f'cannot read the query: {name} is "{text[:40]}", allowed: 0 to {most}')
    return int(text)


def flag(text: str | None) -> bool:
    return text is not None and text not in ("0", "false", "no")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AgentdError("bad-request", f"cannot read the request: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise AgentdError("bad-request", "cannot read the request: expected a JSON object")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f'unknown field "{name[:60]}"' + (
        f', did you mean "{close[0]}"?' if close else f" (known: {', '.join(known)})"
    )


def _alternatives(hint: Any) -> tuple[type, ...]:
    return get_args(hint) or (hint,)


def _check(name: str, value: Any, allowed: tuple[type, ...]) -> str:
    kind = float if type(value) is int and int not in allowed else type(value)
    if kind not in allowed:
        return f'"{name}" must be ' + " or ".join(_NAMES[a] for a in allowed)
    if kind is int and not LEAST.get(name, 0) <= value <= MOST:
        return f'"{name}" must be a whole number from {LEAST.get(name, 0)} to {MOST}'
    if kind is float and not (math.isfinite(value) and 0 <= value <= MAX_SECONDS):
        return f'"{name}" must be a number of seconds from 0 to {MAX_SECONDS:.0f}'
    if name in CHOICES and value is not None and value not in CHOICES[name]:
        return f'"{name}" must be one of {", ".join(CHOICES[name])}'
    return ""
