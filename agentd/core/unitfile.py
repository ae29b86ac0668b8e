"""systemd's unit files: directives with their place, and several files put together as systemd does it. Pure.

Reading never fails. What systemd would pass over with a warning is in `Parsed.problems`, in systemd's sense.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentd.core.directives_known import ALIASES, LISTS

_LINE_END = re.compile(r"\n\r?|\r\n?|\0")
_SPACE = " \t\n\r"
_CONDITIONS = ("Condition", "Assert")


@dataclass(frozen=True, slots=True)
class Directive:
    """One assignment; `value` is its text with continuation lines joined, "" resets."""

    section: str
    key: str
    value: str
    path: str
    line: int
    """Of its first line, from 1."""

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that systemd passes over."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Parsed:
    directives: tuple[Directive, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a key has after all files: one value for a scalar, every one since the last reset for a list.

    `lost`: assignments without effect, each overridden by the first of `where` or by `reset`. A list that was only
    reset has no values, and its `where` is the reset.
    """

    values: tuple[str, ...]
    where: tuple[Directive, ...]
    lost: tuple[Directive, ...] = ()
    reset: Directive | None = None
    """The last empty assignment, also of a list that goes on after it."""

    @property
    def text(self) -> str:
        return " ".join(self.values)

    @property
    def place(self) -> str:
        return self.where[-1].place


def parse(text: str, path: str = "") -> Parsed:
    """Directives in the order of the file. A section header without "]" ends the reading, as in systemd."""
    directives: list[Directive] = []
    problems: list[Problem] = []
    section = ""
    for number, line in _logical_lines(text):
        if line.startswith("["):
            if not line.endswith("]") or len(line) < 3:
                problem = f'"{line}" is no section header; the rest of the file is ignored'
                problems.append(Problem(path, number, problem))
                break
            section = line[1:-1]
            continue
        key, equals, value = line.partition("=")
        problem = _wrong(section, key.strip(_SPACE), equals)
        if problem:
            problems.append(Problem(path, number, problem))
        else:
            directives.append(Directive(section, key.strip(_SPACE), value.strip(_SPACE), path, number))
    return Parsed(tuple(directives), tuple(problems))


def _wrong(section: str, key: str, equals: str) -> str:
    if not section:
        return "the line is outside of a section"
    if not equals:
        return 'the line has no "="'
    return "" if key else 'the line has no name before its "="'


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, text): comments left out, continuation lines joined by a space."""
    pending, start = "", 0
    for number, raw in enumerate(_LINE_END.split(text.removeprefix("\ufeff")), 1):
        line = raw.lstrip(_SPACE)
        if line[:1] in ("#", ";"):
            continue
        start = start or number
        pending += line
        if _continues(pending):
            pending = pending[:-1] + " "
            continue
        if pending.strip(_SPACE):
            yield start, pending.strip(_SPACE)
        pending, start = "", 0
    if pending.strip(_SPACE):
        yield start, pending.strip(_SPACE)


def _continues(line: str) -> bool:
    """It ends with a backslash that no other backslash escapes."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def merge(files: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Setting]:
    """Settings by (section, key) of (path, text) in the order in which systemd reads them. Old names are turned into
    the present ones. Conditions, of which each line counts for itself, add up too."""
    return merge_directives([directive for path, text in files for directive in parse(text, path).directives])


def merge_directives(directives: Sequence[Directive]) -> dict[tuple[str, str], Setting]:
    """As `merge`, of what was parsed before."""
    found: dict[tuple[str, str], Setting] = {}
    for directive in directives:
        key = ALIASES.get(directive.key, directive.key)
        at = (directive.section, key)
        found[at] = _assign(found.get(at), directive, is_list(key))
    return found


def is_list(key: str) -> bool:
    return key in LISTS or key.startswith(_CONDITIONS)


def _assign(old: Setting | None, new: Directive, accumulates: bool) -> Setting:
    if old is None:
        if accumulates and not new.value:
            return Setting((), (new,), (), new)
        return Setting((new.value,), (new,))
    if not accumulates:
        return Setting((new.value,), (new,), (*old.lost, *old.where))
    if not new.value:
        return Setting((), (new,), (*old.lost, *old.where), new)
    if not old.values:
        return Setting((new.value,), (new,), old.lost, old.reset)
    return Setting((*old.values, new.value), (*old.where, new), old.lost, old.reset)


def words(value: str) -> tuple[str, ...]:
    """The words of a list value; quotes keep spaces, a backslash keeps the next character."""
    if not any(mark in value for mark in "\"'\\"):
        return tuple(value.split())
    return tuple(_words(value))


def _words(value: str) -> Iterator[str]:
    word, quote, begun, escaped = "", "", False, False
    for char in value:
        if escaped:
            word, escaped = word + char, False
        elif char == "\\":
            begun = escaped = True
        elif char == quote:
            quote = ""
        elif quote:
            word += char
        elif char in "\"'":
            quote, begun = char, True
        elif char in _SPACE:
            if begun:
                yield word
            word, begun = "", False
        else:
            word, begun = word + char, True
    if begun:
        yield word
