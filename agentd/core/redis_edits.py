"""Changes to the lines of redis.conf that leave everything else as it stands: order, comments, line endings. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.redis_args import written
from agentd.core.redis_directives import DEFAULTS, refusal
from agentd.core.redis_lines import Line, parse_line

COMMENT = "# agentd: what follows wins over the lines above and over the files that they include"


@dataclass(frozen=True, slots=True)
class Change:
    """The new lines of a file, and a sentence for each line that differs."""

    lines: tuple[Line, ...]
    told: tuple[str, ...]


def text_of(lines: Sequence[Line]) -> str:
    return "".join(line.raw for line in lines)


def argument(name: str, value: str) -> str:
    """The value as the file has it; save points stand as several words."""
    return value if name == "save" and value else written(value)


def ways(lines: tuple[Line, ...], name: str, value: str) -> Iterator[Change]:
    """Edits after which the file itself says `name value`, the smallest one first."""
    own = [place for place, line in enumerate(lines) if line.name == name]
    if own:
        yield _replace(lines, own[-1], name, value)
    if own[:-1] and name == "save":
        yield _without(_replace(lines, own[-1], name, value), own[:-1])
    yield _append(lines, name, value)


def without(lines: Sequence[Line], places: Collection[int]) -> tuple[Line, ...]:
    return tuple(line for place, line in enumerate(lines) if place not in places)


def replaced(line: Line, text: str) -> Line:
    """The line with other arguments."""
    begin, end = line.span
    space = "" if line.args else " "
    return parse_line(line.raw[:begin] + space + text + line.raw[end:], line.path, line.number)


def added(lines: Sequence[Line], at: int, texts: Sequence[str]) -> tuple[Line, ...]:
    """With new lines before place `at`. A file without a newline at its end stays one."""
    ending = next(("\r\n" if line.raw.endswith("\r\n") else "\n" for line in lines if line.raw.endswith("\n")), "\n")
    path = lines[0].path if lines else ""
    new = [parse_line(text + ending, path, 0) for text in texts]
    before = list(lines[:at])
    if before and not before[-1].raw.endswith("\n"):
        last = before[-1]
        before[-1] = parse_line(last.raw + ending, last.path, last.number)
        new[-1] = parse_line(texts[-1], path, 0)
    return (*before, *new, *lines[at:])


def _replace(lines: tuple[Line, ...], place: int, name: str, value: str) -> Change:
    old, text = lines[place], argument(name, value)
    if " ".join(old.args) == value:
        return Change(lines, ())
    new = (*lines[:place], replaced(old, text), *lines[place + 1 :])
    return Change(new, (f"line {old.number}: {name} {_said(old)} -> {text}",))


def _without(change: Change, places: Sequence[int]) -> Change:
    gone = [change.lines[place] for place in places]
    told = (f"line {line.number}: {line.name} {_said(line)} removed" for line in gone)
    return Change(without(change.lines, places), (*change.told, *told))


def _append(lines: tuple[Line, ...], name: str, value: str) -> Change:
    """At the end, below a comment of ours; what we said of it there before goes, so that nothing piles up."""
    start, end = _block(lines)
    change = _without(Change(lines, ()), [place for place in range(start, end) if lines[place].name == name])
    start, end = _block(change.lines)
    kept, text = change.lines, f"{name} {argument(name, value)}"
    told = (*change.told, f"added at the end: {text}")
    last = all(not line.raw.strip() for line in kept[end:])
    if start and last:
        return Change(added(kept, end, (text,)), told)
    if start and start == end:
        kept = without(kept, (start - 1,))
    return Change(added(kept, len(kept), (COMMENT, text)), told)


def _block(lines: Sequence[Line]) -> tuple[int, int]:
    """From where to where the lines below our last comment stand; (0, 0) when there is none."""
    start = max((place for place, line in enumerate(lines, 1) if line.raw.strip() == COMMENT), default=0)
    if not start:
        return 0, 0
    return start, next((place for place in range(start, len(lines)) if not lines[place].name), len(lines))


def _said(line: Line) -> str:
    """A value of our directives; what else may stand there, by mistake, is not told."""
    if refusal(line.name, line.args):
        return "(what the server refuses)"
    return " ".join(map(written, line.args)) or '""'


def rewritten(lines: Sequence[Line], running: Mapping[str, str]) -> tuple[Line, ...]:
    """What CONFIG REWRITE makes of these directives: each line in its place, more at the end, superfluous ones gone.

    Save points become a line each.
    """
    for name, value in running.items():
        texts = _rewritten_arguments(name, value)
        own = [place for place, line in enumerate(lines) if line.name == name]
        changed = {place: replaced(lines[place], text) for place, text in zip(own, texts, strict=False)}
        if own or name == "save" or value != DEFAULTS.get(name):
            lines = [changed.get(place, line) for place, line in enumerate(lines)]
            lines = without(lines, own[len(texts) :])
            more = [f"{name} {text}" for text in texts[len(own) :]]
            lines = added(lines, len(lines), more) if more else lines
    return tuple(lines)


def _rewritten_arguments(name: str, value: str) -> list[str]:
    words = value.split()
    if name != "save":
        return [written(value)]
    return [" ".join(pair) for pair in zip(words[::2], words[1::2], strict=False)] or ['""']
