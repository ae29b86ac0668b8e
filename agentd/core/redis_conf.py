"""What redis.conf comes to, once its includes and the command line are in their places. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from agentd.core.redis_directives import DEFAULTS, SECRET, normal, save_points
from agentd.core.redis_lines import Line, parse
from agentd.core.redis_reading import Step, read
from agentd.stores import ConfTree

__all__ = ["Decision", "Effective", "Line", "Setting", "decide", "effective", "parse"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a directive comes to, as CONFIG GET shows it; only `dir` is as it is written, relative to the working
    directory of the server's start."""

    value: str
    source: str
    """"FILE:LINE", "ExecStart=" or "default"."""
    argument: bool = False
    """The command line has the last word: no line of the file can change it."""
    overridden: tuple[str, ...] = ()
    """Sources of what was said before, and counts no more."""


@dataclass(frozen=True, slots=True)
class Effective:
    values: Mapping[str, Setting]
    """Of the names that were asked for. A directive whose default is not known here is left out where nothing sets it,
    and so is every secret."""
    problems: tuple[str, ...] = ()
    """What could not be read, or would be refused: with one of these no value is certain."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the steps come to for one directive; `value` is None when nothing is known to set it."""

    value: str | None
    steps: tuple[Step, ...] = ()
    """Those that make up the value, the last one decides; () for the default."""
    overridden: tuple[Step, ...] = ()
    certain: bool = True
    """No file that cannot be read has a say in it."""


def effective(tree: ConfTree, argv: Sequence[str], names: Iterable[str]) -> Effective:
    """What the next start would read. `argv`: the whole ExecStart=, program first; () when there is none, or when it is
    not known."""
    found = read(tree, argv)
    values = {}
    for name in dict.fromkeys(name.lower() for name in names):
        decision = decide(found.steps, name)
        if decision.value is not None and name not in SECRET:
            values[name] = _setting(decision, decision.value)
    return Effective(values, found.problems)


def _setting(decision: Decision, value: str) -> Setting:
    overridden = tuple(dict.fromkeys(step.line.source for step in decision.overridden))
    if not decision.steps:
        return Setting(value, "default", overridden=overridden)
    last = decision.steps[-1]
    return Setting(value, last.line.source, last.argument, overridden)


def decide(steps: Sequence[Step], name: str) -> Decision:
    """The last line wins; save points and relative directories add up."""
    if name == "save":
        return _decide_save(steps)
    hits = [step for step in steps if step.unknown or step.line.name == name]
    certain = not hits or not hits[-1].unknown
    hits = [step for step in hits if not step.unknown]
    if not hits:
        return Decision(DEFAULTS.get(name), certain=certain)
    values = [_value(step.line) for step in hits]
    value = reduce(posixpath.join, values, DEFAULTS["dir"]) if name == "dir" else values[-1]
    return Decision(value, (hits[-1],), tuple(hits[:-1]), certain)


def _value(line: Line) -> str:
    text = " ".join(line.args)
    value = normal(line.name, text)
    return text if value is None else value


def _decide_save(steps: Sequence[Step]) -> Decision:
    pairs, used, lost = [DEFAULTS["save"]], list[Step](), list[Step]()
    certain = first = True
    for step in steps:
        if step.unknown:
            certain = False
        points = save_points(step.line.args) if step.line.name == "save" else None
        if points is None:
            continue
        reset = points.reset or step.after_include
        if reset:
            certain = True
        reset = reset or first
        # The first line forgets the defaults, unless it came as CONFIG SET would: then the next one still does.
        first = first and step.after_include
        if reset:
            pairs, used, lost = [], [], lost + used
        if reset or points.pairs:
            pairs.extend(points.pairs)
            used.append(step)
    return Decision(" ".join(pairs), tuple(used), tuple(lost), certain)
