"""The transition table: equal to its drawing, complete, and every phase leads to a resting state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import agentd.core.switch as switch
from agentd.core.switch import ON_DEADLINE, RESTING, TRANSITIONS, UNTOUCHED, Signal, State, advance, outcome
from agentd.errors import AgentdError
from agentd.types import Outcome

PHASES = [s for s in State if s not in RESTING and s is not State.AS_BEFORE]


def test_drawing_has_exactly_the_edges_of_the_table() -> None:
    text = Path(switch.__file__).with_suffix(".dot").read_text()
    drawn = set(re.findall(r'"([\w-]+)" -> "([\w-]+)" \[label="([\w-]+)"\]', text))
    assert drawn == {(a.value, c.value, b.value) for (a, b), c in TRANSITIONS.items()}


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_a_deadline_a_pass_and_a_crash_move(phase: State) -> None:
    assert (phase, ON_DEADLINE[phase]) in TRANSITIONS
    assert (phase, Signal.PASS) in TRANSITIONS
    assert (phase, Signal.CRASH) in TRANSITIONS


@pytest.mark.parametrize("phase", PHASES)
def test_a_resting_state_is_reachable_without_luck(phase: State) -> None:
    """Failing at every step from any phase ends in a resting state within five moves."""
    state = phase
    for _ in range(5):
        signal = next(s for s in (Signal.FAIL, Signal.STUCK, Signal.REFUSE) if (state, s) in TRANSITIONS)
        state = advance(state, signal, before=State.ACTIVE)
        if state in RESTING:
            return
    pytest.fail(f"{phase} does not come to rest")


def test_before_release_every_failure_leaves_the_slot_as_it_was() -> None:
    for phase in UNTOUCHED:
        for signal in (Signal.REFUSE, Signal.FAIL, Signal.CANCEL, Signal.CRASH):
            assert advance(phase, signal, before=State.ACTIVE) is State.ACTIVE


def test_an_unknown_move_names_both_sides() -> None:
    with pytest.raises(AgentdError, match="no move from idle on pass"):
        advance(State.IDLE, Signal.PASS, before=State.IDLE)


@pytest.mark.parametrize(
    ("path", "final", "expected"),
    [
        ([(State.PRECHECK, Signal.REFUSE)], State.ACTIVE, Outcome.REFUSED),
        ([(State.PRECHECK, Signal.REFUSE)], State.WEDGED, Outcome.REFUSED),
        ([(State.PRECHECK, Signal.PASS), (State.DRAIN, Signal.REFUSE)], State.ACTIVE, Outcome.DRAIN_REFUSED),
        ([(State.PRECHECK, Signal.PASS), (State.DRAIN, Signal.CANCEL)], State.ACTIVE, Outcome.CANCELLED),
        ([(State.PRECHECK, Signal.PASS), (State.DRAIN, Signal.PASS), (State.RELEASE, Signal.STUCK)], State.WEDGED,
         Outcome.WEDGED),
        ([(s, Signal.PASS) for s in switch.FORWARD], State.ACTIVE, Outcome.DONE),
        ([(s, Signal.PASS) for s in switch.FORWARD[:-1]] + [(State.VERIFY, Signal.FAIL), (State.CLEANUP, Signal.PASS),
         (State.SETTLE, Signal.PASS), (State.ROLLBACK, Signal.PASS)], State.ACTIVE, Outcome.ROLLED_BACK),
        ([(s, Signal.PASS) for s in switch.FORWARD[:5]] + [(State.START, Signal.FAIL), (State.CLEANUP, Signal.PASS),
         (State.SETTLE, Signal.EMPTIED)], State.DEGRADED, Outcome.DEGRADED),
        ([(State.PRECHECK, Signal.PASS), (State.ROLLBACK, Signal.CRASH), (State.CLEANUP, Signal.STUCK)], State.WEDGED,
         Outcome.WEDGED),
    ],
)  # fmt: skip
def test_outcome(path: list[tuple[State, Signal]], final: State, expected: Outcome) -> None:
    assert outcome(tuple(path), final) is expected
