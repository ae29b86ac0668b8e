"""Drop-ins that agentd owns: their names, their header with owner mark and digest, their content. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agentd.core.ollama import OFF_GPU

NUMBER = 90
"""systemd reads drop-ins in the order of their file names, whatever directory they are in: after what the user set
by `systemctl edit` (override.conf sorts later still and wins) and `set-property` (50-...)."""

READY_MARGIN = 30.0
"""Seconds that TimeoutStartSec= allows beyond the wait for readiness."""


class Purpose(StrEnum):
    SECURITY = "security"
    RESOURCES = "resources"
    EXCLUSIVE = "exclusive"
    READINESS = "readiness"
    CPU_ONLY = "cpu-only"
    MODEL = "model"


_HEADER = (
    "# Written by agentd and replaced by it. A change made here is noticed and kept, but not maintained:\n"
    "# change agentd's configuration instead, or add a drop-in of your own that sorts later.\n"
)
_MARK = re.compile(r"^# agentd: purpose=([a-z-]+) sha256=([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DropIn:
    """One file below a unit directory. `body` is everything after the header."""

    unit: str
    purpose: Purpose
    body: str

    @property
    def path(self) -> str:
        """Relative to the unit directory."""
        return path_of(self.unit, self.purpose)

    @property
    def text(self) -> str:
        return f"{_HEADER}# agentd: purpose={self.purpose.value} sha256={digest(self.body)}\n{self.body}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file that carries our mark."""

    purpose: str
    digest: str
    body: str

    @property
    def edited(self) -> bool:
        """Somebody changed the body after we wrote it."""
        return digest(self.body) != self.digest


def path_of(unit: str, purpose: Purpose) -> str:
    return f"{unit}.d/{NUMBER}-agentd-{purpose.value}.conf"


def digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def parse(text: str) -> Parsed | None:
    """None when the file is not ours."""
    mark = _MARK.search(text)
    if mark is None:
        return None
    return Parsed(mark[1], mark[2], text[mark.end() + 1 :])


def is_ours(text: str) -> bool:
    return parse(text) is not None


def edited(text: str) -> bool:
    """Ours, and changed by somebody since."""
    parsed = parse(text)
    return parsed is not None and parsed.edited


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write (text) or remove (None) by path, and the paths left alone because they are not ours any more."""

    writes: Mapping[str, str | None]
    kept: tuple[str, ...]


def plan(desired: Iterable[DropIn], existing: Mapping[str, str | None], *, force: bool = False) -> Plan:
    """`existing`: texts by path of every file that has, or could have, one of our names; empty plan = converged.

    A file that somebody else wrote or edited is kept, `force` replaces what is ours but edited; a file of ours that
    is not desired any more is removed.
    """
    wanted = {dropin.path: dropin.text for dropin in desired}
    writes: dict[str, str | None] = {}
    kept: list[str] = []
    for path in sorted(wanted.keys() | {p for p, text in existing.items() if text is not None}):
        text, new = existing.get(path), wanted.get(path)
        if text == new:
            continue
        if text is not None and (not is_ours(text) or (edited(text) and not force)):
            if new is not None or is_ours(text):
                kept.append(path)
            continue
        writes[path] = new
    return Plan(writes, tuple(kept))


@dataclass(frozen=True, slots=True)
class Guard:
    """For models that may be up and asleep: which they are, where each model of the slot answers, and who asks."""

    sleepers: frozenset[str]
    """Units whose models may sleep."""
    urls: Mapping[str, str]
    """Unit -> base URL, of every unit of the slot."""
    agentctl: str
    user: bool = True

    def between(self, unit: str, other: str) -> bool:
        """Conflicts= would stop a sleeper when the other one starts."""
        return unit in self.sleepers or other in self.sleepers


def exclusive(units: Sequence[str], guard: Guard | None = None) -> tuple[DropIn, ...]:
    """Drop-ins that let at most one of the units run, whoever starts it; none for fewer than two. Where one of two may
    sleep, systemd cannot know whether both may be up: there the guard asks, before the start."""
    ordered = sorted(set(units))
    if len(ordered) < 2:
        return ()
    return tuple(_exclusive(unit, ordered, guard) for unit in ordered)


def _exclusive(unit: str, ordered: Sequence[str], guard: Guard | None) -> DropIn:
    asked = [other for other in ordered if other != unit and guard is not None and guard.between(unit, other)]
    conflicts = [other for other in ordered if other != unit and other not in asked]
    body = _conflicts(unit, conflicts) if conflicts else []
    body += _guarded(unit, asked, guard) if asked and guard is not None else []
    return DropIn(unit, Purpose.EXCLUSIVE, "\n".join(body) + "\n")


def _guarded(unit: str, others: Sequence[str], guard: Guard) -> list[str]:
    scope = [] if guard.user else ["--system"]
    asked = (f"{other}={guard.urls[other]}" for other in others)
    words = (guard.agentctl, "models", "guard", unit, *scope, "--", *asked)
    return [
        "# At most one model of a slot is awake, also when agentd is not there: before this unit starts, every other",
        "# one that is up is asked, and stopped unless it sleeps. Outside the unit's sandbox: it speaks to systemd.",
        "[Service]",
        f"ExecStartPre=+{' '.join(map(_argument, words))}",
    ]


def _conflicts(unit: str, others: Sequence[str]) -> list[str]:
    earlier = [other for other in others if other < unit]
    return [
        "# At most one model of a slot runs, also when agentd is not there: starting this unit stops the others.",
        "# After= makes the start wait until the other has really stopped. One direction is enough, systemd orders",
        "# a stop before a start either way; both directions would be an ordering cycle when two of them stop at once.",
        "[Unit]",
        *(f"Conflicts={other}" for other in others),
        *(f"After={other}" for other in earlier),
    ]


def readiness(unit: str, url: str, timeout: float, *, agentctl: str = "agentctl") -> DropIn:
    """systemd itself waits until `url` answers; dependents start only then, and the start fails when it never does.

    `agentctl` is an absolute path, or a name that the unit's ExecSearchPath= finds.
    """
    wait = math.ceil(timeout)
    words = (agentctl, "wait-ready", unit.removesuffix(".service"), "--quiet", "--url", url, "--timeout", str(wait))
    command = " ".join(map(_argument, words))
    lines = [
        "# The unit counts as started once it really answers.",
        "[Service]",
        f"ExecStartPost={command}",
        f"TimeoutStartSec={math.ceil(timeout + READY_MARGIN)}",
    ]
    return DropIn(unit, Purpose.READINESS, "\n".join(lines) + "\n")


def cpu_only(unit: str) -> DropIn:
    """Environment in which Ollama finds no GPU; takes effect at the unit's next start."""
    lines = [
        "# The GPU is for the models of a slot: this server computes on the CPU.",
        "[Service]",
        *(f"Environment={name}={value}" for name, value in OFF_GPU.items()),
    ]
    return DropIn(unit, Purpose.CPU_ONLY, "\n".join(lines) + "\n")


def directives(
    unit: str, purpose: Purpose, sections: Mapping[str, Sequence[tuple[str, str]]], *, comment: str = ""
) -> DropIn:
    """A drop-in from directives by section, such as {"Service": [("MemoryMax", "4G")]}; values stand as they are."""
    lines = [f"# {line}" for line in comment.splitlines()]
    for section, pairs in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key}={value}" for key, value in pairs]
    return DropIn(unit, purpose, "\n".join(lines) + "\n")


def _argument(text: str) -> str:
    """One word of a command line in a unit file: specifiers and variables are not expanded in it."""
    text = text.replace("%", "%%").replace("$", "$$")
    if text and not re.search(r"[\s\"'\\;]", text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'
