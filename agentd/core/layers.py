"""Fragments of configuration laid over each other, remembering which file set what.

Tables merge, everything else (lists too) replaces. The result of a merge is plain data: nothing here knows the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

KeyPath = tuple[str, ...]
Table = dict[str, Any]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written; `line` is 0 when only the file is known."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


Provenance = Mapping[KeyPath, Origin]


@dataclass(frozen=True, slots=True)
class Fragment:
    """One parsed file. `lines` holds the line of every table and value in it, or nothing at all."""

    file: str
    data: Table
    lines: Mapping[KeyPath, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Merged:
    """The sum of the fragments. `provenance` has an origin for every table and every value in `data`."""

    data: Table
    provenance: dict[KeyPath, Origin]


def merge(fragments: Iterable[Fragment], *, base: Merged | None = None) -> Merged:
    """Lay the fragments over each other, and over `base`, which is not changed; the later one wins."""
    merged = Merged(deepcopy(base.data), dict(base.provenance)) if base is not None else Merged({}, {})
    for fragment in fragments:
        _overlay(merged.data, fragment.data, (), fragment, merged.provenance)
    return merged


def format_key(path: KeyPath) -> str:
    """The dotted key as TOML writes it, quoted where it must be."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in path)


def origin_of(provenance: Provenance, path: KeyPath) -> Origin | None:
    """The origin of the value, or of the nearest table around it that was written at all."""
    for end in range(len(path), 0, -1):
        if path[:end] in provenance:
            return provenance[path[:end]]
    return None


def _overlay(target: Table, source: Table, at: KeyPath, fragment: Fragment, provenance: dict[KeyPath, Origin]) -> None:
    for key, value in source.items():
        path = (*at, key)
        if isinstance(target.get(key), dict) != isinstance(value, dict):
            _forget(provenance, path)
            target.pop(key, None)
        provenance[path] = Origin(fragment.file, fragment.lines.get(path, 0))
        if isinstance(value, dict):
            _overlay(target.setdefault(key, {}), value, path, fragment, provenance)
        else:
            target[key] = value


def _forget(provenance: dict[KeyPath, Origin], path: KeyPath) -> None:
    """A table gives way to a value, or a value to a table: nothing below it is true any more."""
    for known in [p for p in provenance if p[: len(path)] == path]:
        del provenance[known]
