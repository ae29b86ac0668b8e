"""Whether a model that has to leave the GPU is stopped or put to sleep. Pure; every refusal is one sentence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentd.core.quantities import told_bytes
from agentd.model_facts import ModelFacts

QUARANTINE: tuple[tuple[tuple[int, ...], tuple[int, ...], str], ...] = (
    ((0, 14), (0, 16), "its sleep gives no memory back (vllm#32714)"),
)
"""(first version, first version after it, what is wrong) of vLLM."""
WEIGHTS_FACTOR = 1.3
"""Pinned memory is allocated in powers of two and beside the weights there are buffers."""
MOST_FAILURES = 2
WORTH = 0.7
"""A sleep and a wake that take more than this share of a cold start are not worth the memory."""


@dataclass(frozen=True, slots=True)
class Room:
    """One GPU as it would be for the target beside what sleeps. Bytes; `need` 0: not known."""

    gpu: int
    total: int
    others: int
    """Held by others than the slot's models."""
    residual: int
    """What the sleepers will go on holding, the model itself included, the target not."""
    margin: int
    need: int

    @property
    def short(self) -> int:
        """Bytes that are missing."""
        return max(0, self.need + self.margin - (self.total - self.others - self.residual)) if self.need else 0


@dataclass(frozen=True, slots=True)
class Question:
    """What is known of the model that has to leave, and of the machine, when the decision is due."""

    model: str
    switch: str
    """model.switch: "stop", "sleep1", "sleep2" or "auto"."""
    kind: str
    """Of the change: only a switch leaves anything asleep."""
    max_sleepers: int
    version: str = ""
    can_sleep: bool = True
    """/is_sleeping answers."""
    can_pause: bool = True
    measured: bool = True
    """GPU memory can be read, so that a sleep can be proven."""
    weights: int = 0
    """Bytes; 0: not known."""
    available: int = 0
    """Main memory, bytes."""
    pinned: bool = False
    """This process has slept at level 1 before: it keeps the pinned memory, and takes no more."""
    reserve: int = 0
    rooms: tuple[Room, ...] = ()
    facts: ModelFacts = field(default_factory=lambda: ModelFacts(""))
    in_place_of: str = ""
    """The target, where that is to listen on the model's own port or socket."""


def level_of(switch: str) -> int:
    """The level that a model's `switch` asks for; 0: it is stopped."""
    return {"sleep1": 1, "auto": 1, "sleep2": 2}.get(switch, 0)


def refusal(ask: Question) -> str:
    """Why the model cannot be put to sleep at the level of `switch` now; "" when it can."""
    if ask.switch == "stop":
        return f"{ask.model} is configured to be stopped"
    if ask.kind not in ("switch", "sleep-check"):
        return f"{_a(ask.kind)} wants the whole GPU"
    if ask.in_place_of:
        return f"{ask.model} asleep would go on listening where {ask.in_place_of} is to"
    return _server(ask) or _known(ask) or _machine(ask)


def _a(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def _server(ask: Question) -> str:
    if not ask.can_sleep:
        return f"{ask.model} has no sleep endpoints (--enable-sleep-mode, VLLM_SERVER_DEV_MODE=1)"
    if not ask.can_pause:
        return f"{ask.model} cannot turn requests away while it sleeps (no /pause)"
    flaw = quarantined(ask.version)
    return f"vLLM {ask.version} is not put to sleep: {flaw}" if flaw else ""


def _known(ask: Question) -> str:
    """What was learned. A check on purpose is there to learn it anew; an explicit level is not weighed by its cost."""
    level = level_of(ask.switch)
    facts = ask.facts.level(level)
    if ask.kind == "sleep-check":
        return ""
    if facts.broken:
        return f"sleep level {level} of {ask.model} is not used any more: {facts.broken}"
    if facts.failures >= MOST_FAILURES:
        return f"sleep level {level} of {ask.model} failed {facts.failures} times in a row"
    cold, fast = ask.facts.load_seconds, facts.sleep_seconds + facts.wake_seconds
    if ask.switch == "auto" and cold and facts.wake_seconds and fast > WORTH * cold:
        return f"sleeping and waking {ask.model} takes {fast:.1f} s, a cold start {cold:.1f} s"
    return ""


def _machine(ask: Question) -> str:
    if ask.max_sleepers < 1:
        return "the slot allows no sleepers (max_sleepers = 0)"
    if ask.switch == "auto" and not ask.measured:
        return "GPU memory is not measured here, so that a sleep could not be proven"
    if level_of(ask.switch) == 1 and not ask.pinned:
        lack = _memory(ask)
        if lack:
            return lack
    return crowded(ask.model, ask.rooms)


def crowded(model: str, rooms: Sequence[Room]) -> str:
    """Why the target would not fit beside the sleeping model; "" when it does, or when nobody knows."""
    for room in rooms:
        if room.short:
            return f"on GPU {room.gpu} {told_bytes(room.short)} would be missing beside what {model} keeps asleep"
    return ""


def willing(ask: Question) -> bool:
    """Would it be put to sleep if there were memory enough?"""
    return not refusal(dataclasses.replace(ask, rooms=(), available=1 << 62, weights=ask.weights or 1))


def _memory(ask: Question) -> str:
    if not ask.weights:
        return f"the size of {ask.model}'s weights is not known, which would go to main memory"
    need = int(ask.weights * WEIGHTS_FACTOR) + ask.reserve
    if ask.available >= need:
        return ""
    return (
        f"main memory: {ask.model} asleep needs {told_bytes(need)} "
        f"({told_bytes(ask.weights)} of weights x {WEIGHTS_FACTOR:g} + {told_bytes(ask.reserve)} in reserve), "
        f"{told_bytes(ask.available)} is available"
    )


def quarantined(version: str) -> str:
    """What is wrong with the sleep mode of this vLLM; "" when nothing is known."""
    parsed = _parse(version)
    for first, after, flaw in QUARANTINE:
        if parsed and first <= parsed < after:
            return flaw
    return ""


def _parse(version: str) -> tuple[int, ...]:
    """The release of "0.15.1rc2.dev3+g1a2b"; () when there is none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def surplus(asleep: Sequence[str], target: str | None, allowed: int) -> tuple[str, ...]:
    """Which sleepers must be stopped so that at most `allowed` are left beside the target; `asleep` in the order in
    which they fell asleep, so that those longest out of use go first."""
    others = [name for name in asleep if name != target]
    return tuple(others[: max(0, len(others) - max(0, allowed))])


def verdict(facts: ModelFacts, level: int) -> str:
    """What a sleep-check says in the end."""
    one = facts.level(level)
    if one.broken:
        return f"broken: {one.broken}"
    fast, cold = one.sleep_seconds + one.wake_seconds, facts.load_seconds
    if not cold:
        return f"works: {fast:.1f} s; what a cold start takes is not known"
    worth = "worth it" if fast <= WORTH * cold else "not worth it"
    return f"{worth}: {fast:.1f} s instead of {cold:.1f} s"
