"""What a new config changes: a diff of the texts, and the same in words. Pure.

A config holds references to secrets, never a secret, so none can show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

from agentd.core.gateway.header import parse_header
from agentd.core.gateway.tree import Node

_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Delta:
    diff: str
    """Unified, of the texts without their headers; "" when nothing but the header changes."""
    words: tuple[str, ...]
    """One change each: "model qwen added", "router_settings.num_retries: 2 -> 3"."""


def delta(old: str | None, new: str, *, old_tree: Node | None = None, new_tree: Node | None = None) -> Delta:
    """`old` None: there is no config yet. The trees, when given, are those of the texts: without them no words."""
    lines = unified_diff(
        _body(old or "").splitlines(keepends=True), _body(new).splitlines(keepends=True), "now", "generated", n=3
    )
    diff = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
    if not diff:
        return Delta("", ())
    before, after = _plain(old_tree), _plain(new_tree)
    return Delta(diff, (*_models(before, after), *_settings(before, after)))


def _body(text: str) -> str:
    header = parse_header(text)
    return header.body if header is not None else text


def _plain(tree: Node | None) -> dict[str, Any]:
    plain = tree.plain() if tree is not None else None
    return plain if isinstance(plain, dict) else {}


def _models(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    old, new = _by_name(before), _by_name(after)
    yield from (f"model {name} removed" for name in old if name not in new)
    yield from (f"model {name} added" for name in new if name not in old)
    for name in new:
        if name in old and old[name] != new[name]:
            keys = _changed_keys(old[name], new[name])
            yield f"model {name} changed: {', '.join(keys)}"


def _by_name(document: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Model -> its deployments."""
    found: dict[str, list[dict[str, Any]]] = {}
    entries = document.get("model_list")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            found.setdefault(str(entry.get("model_name")), []).append(entry)
    return found


def _changed_keys(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    if len(old) != len(new):
        return [f"{len(old)} -> {len(new)} deployments"]
    return sorted({path for a, b in zip(old, new, strict=True) for path in _differences(a, b)})


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[str]:
    for section in {*old, *new}:
        a, b = old.get(section), new.get(section)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from (str(key) for key in {*a, *b} if a.get(key) != b.get(key))
        elif a != b:
            yield str(section)


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    for section in sorted({*before, *after} - {"model_list"}, key=str):
        old, new = before.get(section), after.get(section)
        old, new = (old if isinstance(old, dict) else {}), (new if isinstance(new, dict) else {})
        for key in sorted({*old, *new}, key=str):
            if old.get(key) != new.get(key):
                yield f"{section}.{key}: {_short(old.get(key))} -> {_short(new.get(key))}"


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
