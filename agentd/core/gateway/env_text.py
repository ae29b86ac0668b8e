"""The text of an environment file, read as systemd's EnvironmentFile= reads it, and edited without touching the rest.

Where systemd is silent about a line (no "=", a name that is none), so are we; a shell's "export NAME=value" counts
where the caller says so, since clients' files are often read by a shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPORT = re.compile(r"export[ \t]+")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,~^-]*")
_SPACE, _LINE_ENDS, _IN_QUOTES = " \t\n\r", "\n\r", '"\\`$'
# In double quotes systemd takes a backslash away before these alone.


@dataclass(frozen=True, slots=True)
class Assignment:
    """`span`: the offsets of the value as written, quotes included, without the line's end."""

    name: str
    value: str = field(repr=False)
    span: tuple[int, int]
    exported: bool = False


def parse(text: str, *, exported: bool = False) -> dict[str, str]:
    """Name -> value; of a name that comes twice the last value. `exported`: "export NAME=value" counts too."""
    return {found.name: found.value for found in assignments(text) if exported or not found.exported}


def assignments(text: str) -> tuple[Assignment, ...]:
    """In the order of the text."""
    found = []
    at = 0
    while at < len(text):
        if text[at] in _SPACE:
            at += 1
        elif text[at] in "#;":
            at = _end_of_comment(text, at)
        else:
            item, at = _assignment(text, at)
            if item is not None:
                found.append(item)
    return tuple(found)


def with_values(text: str, values: Mapping[str, str | None]) -> str:
    """The text with these values, None for one to take out; all else stays byte for byte. Every assignment of a name
    is changed, so that no earlier line keeps an old value. New names come at the end, in the order given.

    Raises ValueError for a name or value that cannot be written, and where the end of the text is open (a quote, a
    backslash), so that a new line would be part of the last value; it does not hold the value.
    """
    wrong = next((name for name in values if not NAME.fullmatch(name)), None)
    if wrong is not None:
        raise ValueError(f'"{wrong}" is not a name of a variable')
    there = set()
    for item in reversed(assignments(text)):
        if item.name in values:
            there.add(item.name)
            text = _changed(text, item, values[item.name])
    fresh = {name: value for name, value in values.items() if name not in there and value is not None}
    for name, value in fresh.items():
        text = _with_line(text, f"{name}={quoted(name, value)}\n")
    read = parse(text, exported=True) if fresh else {}
    if any(read.get(name) != value for name, value in fresh.items()):
        raise ValueError(f"{next(iter(fresh))} cannot be added: a quote or a line is still open at the end of the file")
    return text


def quoted(name: str, value: str) -> str:
    """As systemd, a shell and the usual dotenv readers all read it. Raises ValueError, without the value."""
    if _PLAIN.fullmatch(value):
        return value
    if any(not c.isprintable() for c in value):
        raise ValueError(f"the value of {name} has characters that an environment file cannot hold")
    return '"' + "".join("\\" + c if c in _IN_QUOTES else c for c in value) + '"'


def _changed(text: str, item: Assignment, value: str | None) -> str:
    start, end = item.span
    if value is not None:
        return text[:start] + quoted(item.name, value) + text[end:]
    first = max(text.rfind(mark, 0, start) for mark in _LINE_ENDS) + 1
    while end < len(text) and text[end] not in _LINE_ENDS:
        end += 1
    return text[:first] + text[min(end + 1, len(text)) :]


def _with_line(text: str, line: str) -> str:
    if text and text[-1] not in _LINE_ENDS:
        text += "\n"
    return text + line


def _end_of_comment(text: str, at: int) -> int:
    """A backslash at its end continues a comment, in the systemd versions before 254: there the next line is no
    assignment, so it is none for us."""
    while at < len(text) and text[at] not in _LINE_ENDS:
        at += 2 if text[at] == "\\" else 1
    return at


def _assignment(text: str, at: int) -> tuple[Assignment | None, int]:
    """What begins here, and where the next line does. None for a line that assigns nothing."""
    start = at
    while at < len(text) and text[at] not in "=" + _LINE_ENDS:
        at += 1
    if at == len(text) or text[at] != "=":
        return None, at
    name = text[start:at].rstrip()
    exported = _EXPORT.match(name)
    name = name[exported.end() :] if exported else name
    value, begin, end = _value(text, at + 1)
    if not NAME.fullmatch(name):
        return None, end
    return Assignment(name, value, (begin, end), bool(exported)), end


def _value(text: str, at: int) -> tuple[str, int, int]:
    """(value, where it begins, where it ends). Quotes count where no plain character came since the last ones."""
    while at < len(text) and text[at] in " \t":
        at += 1
    begin = end = at
    out, plain, kept = "", False, 0
    # `kept`: so much of `out` is not blanks at its end.
    while at < len(text) and text[at] not in _LINE_ENDS:
        c = text[at]
        if c in "'\"" and not plain:
            part, at = _quoted(text, at)
            out += part
            kept, end = len(out), at
            continue
        escaped = c == "\\"
        if escaped:
            c = text[at + 1 : at + 2]
        at = min(at + 1 + escaped, len(text))
        if c in _SPACE and not escaped and not plain:
            continue
        plain = True
        out += "" if escaped and c in _LINE_ENDS else c
        if escaped or c not in " \t":
            kept, end = len(out), at
    return out[:kept], begin, end


def _quoted(text: str, at: int) -> tuple[str, int]:
    """The text in quotes and where it ends; an open quote goes to the end of the file."""
    quote, out, at = text[at], "", at + 1
    while at < len(text) and text[at] != quote:
        if quote == '"' and text[at] == "\\" and at + 1 < len(text):
            escaped = text[at + 1]
            out += escaped if escaped in _IN_QUOTES else "" if escaped == "\n" else "\\" + escaped
            at += 2
        else:
            out, at = out + text[at], at + 1
    return out, min(at + 1, len(text))
