"""What an installation would change, as a person reads it: directives, not comments. Pure.

A line is "-MemoryMax=1G" for what goes and "+MemoryMax=2G" for what comes; a directive outside of [Service] carries its
section. Files of somebody else that set the same directives are told with what becomes of them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from agentd.core.unitfile import Directive, is_list, parse, words

Key = tuple[str, str]


class Action(StrEnum):
    NEW = "new"
    CHANGED = "changed"
    REMOVED = "removed"
    KEPT = "kept"
    """Not as we would write it, and left alone: `note` says why."""


class Relation(StrEnum):
    """How a directive in a file of somebody else stands to ours."""

    SAME = "same"
    WINS = "wins"
    LOSES = "loses"
    ADDS = "adds"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """`old` is what lies there, `new` what we would write; None: no such file, or its removal."""

    unit: str
    path: str
    action: Action
    old: str | None
    new: str | None
    note: str = ""

    @property
    def changes(self) -> tuple[str, ...]:
        """Of a kept file: what it has different from ours."""
        return changes(self.new, self.old) if self.action is Action.KEPT else changes(self.old, self.new)

    @property
    def diff(self) -> str:
        return "\n".join(self.changes)


@dataclass(frozen=True, slots=True)
class Rival:
    """A directive of our drop-in that another file sets, too. `name` is our file's."""

    unit: str
    path: str
    line: int
    key: str
    value: str
    ours: str
    name: str
    relation: Relation

    def __str__(self) -> str:
        what = f"{self.path}:{self.line}: {self.key}={self.value}"
        if self.relation is Relation.SAME:
            return f"{what} says the same as {self.name}"
        if self.relation is Relation.ADDS:
            return f"{what} and {self.key}={self.ours} of {self.name} add up"
        if self.relation is Relation.WINS:
            return f"{what} wins over {self.key}={self.ours} of {self.name}: its file is read later"
        return f"{what} has no effect: {self.name} is read later and says {self.key}={self.ours}"


def changes(old: str | None, new: str | None) -> tuple[str, ...]:
    """Directive by directive, in the order of the new text; what only goes comes last. () when nothing differs."""
    before, after = _by_key(old), _by_key(new)
    lines: list[str] = []
    for key in [*after, *(key for key in before if key not in after)]:
        lines += _of_key(key, before.get(key, []), after.get(key, []))
    return tuple(lines)


def _by_key(text: str | None) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for directive in parse(text or "").directives:
        found.setdefault((directive.section, directive.key), []).append(directive.value)
    return found


def _of_key(key: Key, before: Sequence[str], after: Sequence[str]) -> list[str]:
    section, name = key
    name = name if section == "Service" else f"[{section}] {name}"
    lines: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if kind != "equal":
            lines += [f"-{name}={value}" for value in before[a:b]]
            lines += [f"+{name}={value}" for value in after[c:d]]
    return lines


def rivals(unit: str, ours: Mapping[str, str], others: Mapping[str, str]) -> tuple[Rival, ...]:
    """Texts by path, of one unit. systemd reads drop-ins in the order of their file names, whatever directory."""
    mine: dict[Key, list[Directive]] = {}
    for path, text in ours.items():
        for directive in parse(text, path).directives:
            mine.setdefault((directive.section, directive.key), []).append(directive)
    found: list[Rival] = []
    for path in sorted(others, key=_name):
        for theirs in parse(others[path], path).directives:
            same_key = mine.get((theirs.section, theirs.key))
            if same_key:
                found.append(_rival(unit, theirs, same_key))
    return tuple(found)


def _rival(unit: str, theirs: Directive, ours: Sequence[Directive]) -> Rival:
    last = ours[-1]
    name = _name(last.path)
    values = [directive.value for directive in ours]
    later = _name(theirs.path) > name
    if theirs.value in values and (theirs.value or theirs.value == values[-1]):
        relation = Relation.SAME
    elif is_list(theirs.key):
        # A reset takes away whatever was read before it.
        reset = not theirs.value if later else "" in values
        relation = (Relation.WINS if later else Relation.LOSES) if reset else Relation.ADDS
    else:
        relation = Relation.WINS if later else Relation.LOSES
    shown = " ".join(value for value in values if value) if is_list(theirs.key) else last.value
    return Rival(unit, theirs.path, theirs.line, theirs.key, theirs.value, shown, name, relation)


def _name(path: str) -> str:
    return posixpath.basename(path)


def render(files: Iterable[PlannedFile], notes: Iterable[object] = ()) -> str:
    """The plan on a screen, unit by unit; "" when there is nothing to do and nothing to say."""
    lines: list[str] = []
    unit = ""
    for file in sorted(files, key=lambda file: (file.unit, file.path)):
        if file.unit != unit:
            unit = file.unit
            lines += ["", unit] if lines else [unit]
        note = f" ({file.note})" if file.note else ""
        lines.append(f"  {file.action.value:<8} {_name(file.path)}{note}")
        lines += [f"    {line}" for line in file.changes]
    said = [str(note) for note in notes]
    if said:
        lines += ["", *said] if lines else said
    return "\n".join(lines)


def named_paths(value: str) -> tuple[str, ...]:
    """The paths in a value like "-/srv +/data:/mnt", without their prefixes and targets."""
    found = (word.lstrip("-+").partition(":")[0] for word in words(value))
    return tuple(word for word in found if word.startswith(("/", "%")))
