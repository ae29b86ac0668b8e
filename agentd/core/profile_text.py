"""The text of a packaged profile: a unit file in which some directives stand under a condition. Pure.

    # What it buys, and what breaks without it.
    #@ scope=system network=localhost|private
    IPAddressDeny=any

Paragraphs are separated by blank lines. `#@` holds for the rest of its paragraph, or up to the next `#@`; all its
conditions have to be met: scope= and network= with one or more words, systemd>= or systemd< with a version. A comment
goes with the directives that follow it, and is left out when they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentd.errors import AgentdError

_CONDITION = re.compile(r"(?:(scope|network)=([a-z|]+)|systemd(>=|<)(\d+))")
_SECTION = re.compile(r"\[([A-Za-z]+)\]")
_DIRECTIVE = re.compile(r"([A-Z][A-Za-z0-9]*)=(.*)")


@dataclass(frozen=True, slots=True)
class Where:
    """What conditions ask about."""

    scope: str
    systemd: int
    network: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One directive; those with the same `comment` in the same `paragraph` stand below it together."""

    section: str
    key: str
    value: str
    comment: tuple[str, ...] = ()
    paragraph: int = 0
    conditions: tuple[str, ...] = ()
    note: str = ""
    """A comment on this one alone."""


@dataclass(frozen=True, slots=True)
class ProfileText:
    """`about`: the comment at the top."""

    about: tuple[str, ...]
    entries: tuple[Entry, ...]


def parse(name: str, text: str) -> ProfileText:
    """Raises AgentdError("profile-invalid") with file and line."""
    reader = _Reader()
    for number, line in enumerate(text.splitlines(), 1):
        reader.line(line, f"{name}:{number}")
    return ProfileText(tuple(reader.about), tuple(reader.entries))


class _Reader:
    def __init__(self) -> None:
        self.about: list[str] = []
        self.entries: list[Entry] = []
        self._section = ""
        self._paragraph = 0
        self._comment: tuple[str, ...] = ()
        self._conditions: tuple[str, ...] = ()
        self._open = True
        """The comment may go on: no directive has followed it yet."""

    def line(self, line: str, where: str) -> None:
        if not line:
            self._new_paragraph()
        elif line.startswith("#@"):
            self._conditions = _conditions(line, where)
        elif line.startswith("#") and not self._section:
            self.about.append(line)
        elif line.startswith("#"):
            self._comment = (*self._comment, line) if self._open else (line,)
            self._open = True
        elif section := _SECTION.fullmatch(line):
            self._new_paragraph()
            self._section = section[1]
        elif (directive := _DIRECTIVE.fullmatch(line)) and self._section:
            where_it_stands = (self._comment, self._paragraph, self._conditions)
            self.entries.append(Entry(self._section, directive[1], directive[2], *where_it_stands))
            self._open = False
        else:
            raise AgentdError("profile-invalid", f"{where}: neither a directive nor a comment: {line}")

    def _new_paragraph(self) -> None:
        self._paragraph += 1
        self._comment, self._conditions, self._open = (), (), True


def _conditions(line: str, where: str) -> tuple[str, ...]:
    words = tuple(line.removeprefix("#@").split())
    wrong = [word for word in words if not _CONDITION.fullmatch(word)]
    if wrong or not words:
        raise AgentdError("profile-invalid", f"{where}: not a condition: {' '.join(wrong) or line}")
    return words


def resolve(entries: Iterable[Entry], where: Where) -> tuple[Entry, ...]:
    """The entries whose conditions are met."""
    return tuple(e for e in entries if all(_met(condition, where) for condition in e.conditions))


def _met(condition: str, where: Where) -> bool:
    match = _CONDITION.fullmatch(condition)
    assert match is not None
    if match[1]:
        return (where.scope if match[1] == "scope" else where.network) in match[2].split("|")
    return (where.systemd >= int(match[4])) is (match[3] == ">=")


def render(about: Sequence[str], entries: Iterable[Entry]) -> str:
    """A unit file; entries of one section have to follow each other."""
    lines = [*about]
    section, paragraph = "", 0
    printed: tuple[str, ...] = ()
    for entry in entries:
        if (entry.section, entry.paragraph) != (section, paragraph):
            lines += ["", f"[{entry.section}]"] if entry.section != section else [""]
            printed = ()
        if entry.comment != printed:
            lines += entry.comment
        lines += [entry.note] if entry.note else []
        lines.append(f"{entry.key}={entry.value}")
        section, paragraph, printed = entry.section, entry.paragraph, entry.comment
    return "\n".join(lines) + "\n"
