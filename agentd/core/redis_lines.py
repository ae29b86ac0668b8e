"""The lines of redis.conf as Redis 7 reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentd.core.redis_args import split
from agentd.stores import ConfFile

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_STRIPPED = " \t\r\n"
_NAME = re.compile(r"[a-z][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file. What it says is kept out of its repr: it may be a password."""

    path: str
    number: int
    """From 1; 0 where there are no lines, as in arguments."""
    raw: str = field(repr=False)
    """With its ending."""
    name: str = ""
    """In lower case; "" for a comment, an empty line, and one that cannot be read."""
    args: tuple[str, ...] = field(default=(), repr=False)
    span: tuple[int, int] = (0, 0)
    """Where the arguments stand in `raw`."""
    problem: str = ""

    @property
    def source(self) -> str:
        return f"{self.path}:{self.number}" if self.number else self.path


def parse(text: str, path: str) -> tuple[Line, ...]:
    """Every line; their `raw` together are the text."""
    return tuple(parse_line(raw, path, number) for number, raw in enumerate(_LINES.findall(text), 1))


def parse_line(raw: str, path: str, number: int) -> Line:
    stripped = raw.strip(_STRIPPED)
    if "\0" in raw:
        return Line(path, number, raw, problem="a NUL byte, which joins the line to the next one")
    if not stripped or stripped.startswith("#"):
        return Line(path, number, raw)
    words = split(stripped)
    if words is None:
        return Line(path, number, raw, problem="unbalanced quotes")
    if not words:
        return Line(path, number, raw)
    name = words[0].text.lower()
    if not _NAME.fullmatch(name):
        return Line(path, number, raw, problem="no directive has such a name")
    offset = raw.index(stripped)
    begin = words[1].start if len(words) > 1 else words[0].end
    span = (begin + offset, words[-1].end + offset)
    return Line(path, number, raw, name, tuple(word.text for word in words[1:]), span)


def joined(files: Sequence[ConfFile]) -> list[Line]:
    """Redis puts the files that a pattern names together before it reads lines: one that does not end in a newline goes
    on in the next."""
    found: list[Line] = []
    rest = ""
    for file in files:
        first = True
        for line in parse(file.text or "", file.path):
            if first and rest:
                found[-1] = parse_line(rest + line.raw, found[-1].path, found[-1].number)
            else:
                found.append(line)
            first, rest = False, ""
        if found and not found[-1].raw.endswith("\n"):
            rest = found[-1].raw
    return found
