"""Edits of a source text that leave every other byte alone, comments too.

After an edit the text is parsed again: what it says must differ in the wanted value and nowhere else. Where the text
does not allow that (an alias shared with others, a value that goes over several lines), it is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from agentd.core.gateway.edit_layout import Layout
from agentd.core.gateway.tree import Node
from agentd.core.gateway.yaml_text import YamlProblem, parse
from agentd.errors import AgentdError

KIND = "gateway-edit"
STATUS = ("enabled", "disabled")


def set_status(text: str, file: str, section: str, name: str, status: str) -> str:
    """`section`: "providers" or "models". Raises AgentdError for what is not there."""
    if status not in STATUS:
        raise AgentdError(KIND, f"cannot set the status {status}: it is one of {', '.join(STATUS)}")
    _there(parse(text, file), file, (section, name))
    return set_value(text, file, (section, name, "status"), status)


def set_value(text: str, file: str, path: Sequence[str], value: object) -> str:
    """Replace the value at `path`, or add its last key at the end of the mapping around it; an entry of a list is named
    by its number, from 0. `value`: a scalar, a list or a mapping; the last two are written on one line.

    Raises AgentdError("gateway-edit" | "yaml-syntax").
    """
    tree = parse(text, file)
    _writable(path, value)
    parent = _there(tree, file, path[:-1])
    layout = Layout(text)
    node = _child(parent, path[-1])
    if node is not None:
        edited = layout.replaced(parent, node, value)
    elif parent.kind == "list":
        raise AgentdError(KIND, f"cannot set {_shown(path)} in {file}: the list has {len(parent.items)} entries")
    elif parent.kind == "mapping" or parent.value is None:
        edited = layout.added(parent, path[-1], value, key=_key_of(tree, path[:-1]))
    else:
        raise AgentdError(KIND, f"cannot set {_shown(path)} in {file}: {_shown(path[:-1])} is a single value")
    return _verified(edited, file, _with(tree.plain(), path, value), path)


def add_entry(text: str, file: str, path: Sequence[str], fields: Mapping[str, Any]) -> str:
    """A new entry (a provider, a port, a model) at the end of its section. Raises AgentdError when it is there."""
    tree = parse(text, file)
    parent = _there(tree, file, path[:-1])
    if _child(parent, path[-1]) is not None:
        raise AgentdError(KIND, f"cannot add {_shown(path)} to {file}: it is there already")
    _writable(path, dict(fields))
    edited = Layout(text).added(parent, path[-1], dict(fields), key=_key_of(tree, path[:-1]), block=True)
    return _verified(edited, file, _with(tree.plain(), path, dict(fields)), path)


def remove_entry(text: str, file: str, path: Sequence[str]) -> str:
    """Without the entry at `path`, its lines and the comment behind it. Raises AgentdError."""
    tree = parse(text, file)
    parent = _there(tree, file, path[:-1])
    _there(tree, file, path)
    wanted = copy.deepcopy(tree.plain())
    inner: Any = wanted
    for step in path[:-1]:
        inner = inner[int(step) if isinstance(inner, list) else step]
    del inner[int(path[-1]) if isinstance(inner, list) else path[-1]]
    edited = Layout(text).removed(parent, path[-1])
    if not inner:  # "providers:" with nothing below it says the same as {} or [].
        return _verified(edited, file, wanted, path, empty=tuple(path[:-1]))
    return _verified(edited, file, wanted, path)


def _child(parent: Node, step: str) -> Node | None:
    if parent.kind == "list":
        return parent.items[int(step)] if step.isdecimal() and int(step) < len(parent.items) else None
    return parent.get(step)


def _key_of(tree: Node, path: Sequence[str]) -> Node | None:
    """The key before the value at `path`; None at the top, and for an entry of a list."""
    parent = tree
    for step in path[:-1]:
        parent = _child(parent, step) or parent
    return next((key for key, _ in parent.pairs if path and key.value == path[-1]), None)


def _there(tree: Node, file: str, path: Sequence[str]) -> Node:
    node = tree
    for number, step in enumerate(path):
        child = _child(node, step)
        if child is None:
            known = [str(key.value) for key, _ in node.pairs]
            hint = f"there are: {', '.join(known[:20])}" if known else ""
            raise AgentdError(KIND, f"cannot find {_shown(path[: number + 1])} in {file}", hint=hint)
        node = child
    return node


def _shown(path: Sequence[str]) -> str:
    return ".".join(path) or "the file"


def _writable(path: Sequence[str], value: object) -> None:
    if not path:
        raise AgentdError(KIND, "cannot set a whole file: name a value in it")
    if not _plain(value):
        raise AgentdError(KIND, f"cannot set {_shown(path)}: the value is no text, number, list or mapping")


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float)


def _with(document: object, path: Sequence[str], value: object) -> object:
    """The plain document with this value."""
    wanted: Any = copy.deepcopy(document) if document is not None else {}
    inner = wanted
    for step in path[:-1]:
        key: Any = int(step) if isinstance(inner, list) else step
        if inner[key] is None:
            inner[key] = {}
        inner = inner[key]
    inner[int(path[-1]) if isinstance(inner, list) else path[-1]] = value
    return wanted


def _verified(edited: str, file: str, wanted: object, path: Sequence[str], empty: Sequence[str] | None = None) -> str:
    try:
        found = parse(edited, file).plain()
    except YamlProblem as problem:
        raise _refused(file, path, problem.problem.text) from None
    if empty is not None and found != wanted:
        wanted = _with(wanted, empty, None) if empty else None
    if found == wanted and repr(found) == repr(wanted):
        return edited
    raise _refused(file, path, "other values would change with it")


def _refused(file: str, path: Sequence[str], why: str) -> AgentdError:
    message = f"cannot edit {_shown(path)} in {file}: {why}"
    return AgentdError(KIND, message, hint=f"edit {file} by hand, then: agentctl gateway validate")
