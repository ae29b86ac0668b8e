"""The states of a slot and the only moves between them. Pure: effects live in managers/models.

Drawn in switch.dot; a test keeps the drawing and this table equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise

from agentd.errors import AgentdError
from agentd.types import Outcome


class State(StrEnum):
    """Resting states first, then the phases of a change in their order, then the way back."""

    IDLE = "idle"
    ACTIVE = "active"
    LEASED = "leased"
    DEGRADED = "degraded"
    WEDGED = "wedged"

    PRECHECK = "precheck"
    DRAIN = "drain"
    RELEASE = "release"
    EVICT = "evict"
    WAIT_VRAM = "wait-vram"
    START = "start"
    WAIT_READY = "wait-ready"
    VERIFY = "verify"

    CLEANUP = "cleanup"
    SETTLE = "settle"
    ROLLBACK = "rollback"

    AS_BEFORE = "as-before"
    """Not a state to be in: the resting state in which the change found the slot."""


class Signal(StrEnum):
    """What a phase reports."""

    BEGIN = "begin"
    PASS = "pass"
    EMPTIED = "emptied"
    """Passed, and nothing is to be started: an unload, or no model to go back to."""
    LENT = "lent"
    KEPT = "kept"
    """Done, and the slot's resident model was not touched: only a sleeper was stopped."""
    ADOPT = "adopt"
    """Somebody else made another model of the slot resident meanwhile; we do not fight."""
    RETRY = "retry"
    """The target's start is tried once more, from making room on: what was in its way passes by itself."""
    REFUSE = "refuse"
    FAIL = "fail"
    STUCK = "stuck"
    """Processes or GPU memory that never go."""
    CANCEL = "cancel"
    CRASH = "crash"
    """agentd itself was cut off in this phase."""


RESTING = frozenset({State.IDLE, State.ACTIVE, State.LEASED, State.DEGRADED, State.WEDGED})
UNTOUCHED = frozenset({State.PRECHECK, State.DRAIN})
"""Phases in which the previous model still serves: giving up costs nothing."""
MUTATING = frozenset({State.RELEASE, State.EVICT, State.START, State.CLEANUP, State.ROLLBACK})
"""Phases that change the world; the journal is on disk before they begin."""
UNINTERRUPTED = frozenset({State.RELEASE, State.EVICT, State.CLEANUP, State.SETTLE, State.ROLLBACK})
"""Phases that a cancel does not cut: half a stop is worse than a stop. It counts at their end."""
COMMITTED = frozenset({State.IDLE, State.ACTIVE, State.LEASED})

FORWARD = (
    State.PRECHECK,
    State.DRAIN,
    State.RELEASE,
    State.EVICT,
    State.WAIT_VRAM,
    State.START,
    State.WAIT_READY,
    State.VERIFY,
)


def _table() -> dict[tuple[State, Signal], State]:
    table = {(resting, Signal.BEGIN): State.PRECHECK for resting in RESTING}
    steps = (*FORWARD, State.ACTIVE)
    for phase, following in pairwise(steps):
        table[phase, Signal.PASS] = following
        if phase in UNTOUCHED:
            for signal in (Signal.REFUSE, Signal.FAIL, Signal.CANCEL, Signal.CRASH):
                table[phase, signal] = State.AS_BEFORE
        else:
            for signal in (Signal.FAIL, Signal.CANCEL, Signal.CRASH):
                table[phase, signal] = State.CLEANUP
    return table | {
        (State.WAIT_VRAM, Signal.RETRY): State.EVICT,
        (State.START, Signal.RETRY): State.EVICT,
        (State.WAIT_READY, Signal.RETRY): State.EVICT,
        (State.RELEASE, Signal.STUCK): State.WEDGED,
        (State.RELEASE, Signal.KEPT): State.AS_BEFORE,
        (State.WAIT_VRAM, Signal.STUCK): State.WEDGED,
        (State.WAIT_VRAM, Signal.EMPTIED): State.IDLE,
        (State.WAIT_VRAM, Signal.LENT): State.LEASED,
        (State.CLEANUP, Signal.PASS): State.SETTLE,
        (State.CLEANUP, Signal.STUCK): State.WEDGED,
        (State.CLEANUP, Signal.CRASH): State.CLEANUP,
        (State.SETTLE, Signal.PASS): State.ROLLBACK,
        (State.SETTLE, Signal.ADOPT): State.ACTIVE,
        (State.SETTLE, Signal.EMPTIED): State.DEGRADED,
        (State.SETTLE, Signal.STUCK): State.WEDGED,
        (State.SETTLE, Signal.CRASH): State.CLEANUP,
        (State.ROLLBACK, Signal.PASS): State.ACTIVE,
        (State.ROLLBACK, Signal.ADOPT): State.ACTIVE,
        (State.ROLLBACK, Signal.FAIL): State.DEGRADED,
        (State.ROLLBACK, Signal.CRASH): State.CLEANUP,
    }


TRANSITIONS: Mapping[tuple[State, Signal], State] = _table()

ON_DEADLINE: Mapping[State, Signal] = {
    State.PRECHECK: Signal.REFUSE,
    State.DRAIN: Signal.REFUSE,
    State.RELEASE: Signal.STUCK,
    State.EVICT: Signal.FAIL,
    State.WAIT_VRAM: Signal.FAIL,
    State.START: Signal.FAIL,
    State.WAIT_READY: Signal.FAIL,
    State.VERIFY: Signal.FAIL,
    State.CLEANUP: Signal.STUCK,
    State.SETTLE: Signal.STUCK,
    State.ROLLBACK: Signal.FAIL,
}
"""What a phase that outlives its deadline counts as."""


def advance(state: State, signal: Signal, *, before: State) -> State:
    """The state that follows; `before` is the resting state in which the change found the slot."""
    following = TRANSITIONS.get((state, signal))
    if following is None:
        raise AgentdError("internal", f"no move from {state} on {signal}")
    return before if following is State.AS_BEFORE else following


def outcome(path: tuple[tuple[State, Signal], ...], final: State) -> Outcome:
    """How a change ended, from the phases it went through and the resting state it reached."""
    signals = dict(path)
    if final is State.WEDGED and any(s not in UNTOUCHED for s in signals):
        return Outcome.WEDGED
    went_back = any(s is State.CLEANUP for s, _ in path)
    if went_back:
        return Outcome.ROLLED_BACK if final is State.ACTIVE else Outcome.DEGRADED
    if signals.get(State.PRECHECK) is Signal.CANCEL or signals.get(State.DRAIN) is Signal.CANCEL:
        return Outcome.CANCELLED
    if State.DRAIN in signals and signals[State.DRAIN] is not Signal.PASS:
        return Outcome.DRAIN_REFUSED
    if signals.get(State.PRECHECK) is not Signal.PASS:
        return Outcome.REFUSED
    return Outcome.DONE
