"""Thresholds as Kubernetes counts them, and the one word per service."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.checks import Tracker, roll_up
from agentd.core.schema import Probe
from agentd.types import ActiveState, Health, ProbeKind, ProbeStatus, UnitState


def fed(answers: str, *, failures: int = 3, successes: int = 1) -> list[bool | None]:
    """ "+" and "-" as answers; what `passing` was after each."""
    tracker = Tracker(ProbeKind.READINESS, Probe(failure_threshold=failures, success_threshold=successes))
    seen: list[bool | None] = []
    for at, one in enumerate(answers):
        tracker.observe(ok=one == "+", now=float(at), seconds=0.1, detail="" if one == "+" else "refused")
        seen.append(tracker.status.passing)
    return seen


@pytest.mark.parametrize(
    ("answers", "passing"),
    [
        ("+", [True]),
        ("--", [None, None]),
        ("---+", [None, None, False, True]),
        ("+--+--", [True] * 6),
        ("+---", [True, True, True, False]),
        ("--+--+", [None, None, True, True, True, True]),
    ],
)
def test_failure_threshold(answers: str, passing: list[bool | None]) -> None:
    assert fed(answers) == passing


def test_success_threshold_counts_in_a_row() -> None:
    assert fed("++-++", failures=1, successes=2) == [None, True, False, False, True]


@given(st.text("+-", max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_a_verdict_changes_only_after_its_run(answers: str, failures: int, successes: int) -> None:
    seen = fed(answers, failures=failures, successes=successes)
    for at, (before, after) in enumerate(zip([None, *seen], seen, strict=False)):
        if after is not before:
            run = answers[: at + 1][-(successes if after else failures) :]
            assert set(run) == {"+" if after else "-"}
            assert len(run) == (successes if after else failures)


def test_status_keeps_the_last_answer_and_tells_news() -> None:
    tracker = Tracker(ProbeKind.LIVENESS, Probe(failure_threshold=2))
    assert tracker.observe(ok=False, now=5.0, seconds=0.5, detail="refused")
    assert tracker.observe(ok=True, now=6.0, seconds=0.1)
    assert tracker.status == ProbeStatus(ProbeKind.LIVENESS, True, "", 6.0, 0.1, 0)
    assert not tracker.observe(ok=True, now=7.0, seconds=0.1)
    assert not tracker.observe(ok=False, now=8.0, seconds=0.1, detail="500")
    assert tracker.status.failures == 1
    assert tracker.observe(ok=False, now=9.0, seconds=0.1, detail="500")
    assert (tracker.status.passing, tracker.status.detail) == (False, "500")
    assert not tracker.observe(ok=False, now=10.0, seconds=0.1, detail="500")
    assert tracker.observe(ok=False, now=11.0, seconds=0.1, detail="refused")


def unit(active: ActiveState = ActiveState.ACTIVE, **fields: object) -> UnitState:
    return UnitState("x.service", "loaded", active, **fields)  # type: ignore[arg-type]


def probe(kind: ProbeKind, passing: bool | None, detail: str = "") -> ProbeStatus:
    return ProbeStatus(kind, passing, detail)


S, R, L = ProbeKind.STARTUP, ProbeKind.READINESS, ProbeKind.LIVENESS


@pytest.mark.parametrize(
    ("state", "probes", "health", "cause"),
    [
        (UnitState("x.service"), [], Health.MISSING, "x.service does not exist: there is no unit file of that name"),
        (UnitState("x.service", "masked"), [], Health.MISSING, "x.service is masked"),
        (unit(ActiveState.INACTIVE), [], Health.STOPPED, "x.service is stopped"),
        (unit(ActiveState.INACTIVE), [probe(R, True)], Health.STOPPED, "x.service is stopped"),
        (unit(ActiveState.ACTIVATING), [], Health.STARTING, "x.service is starting"),
        (unit(ActiveState.ACTIVATING), [probe(R, True)], Health.STARTING, "x.service is starting"),
        (
            unit(ActiveState.ACTIVATING, sub_state="auto-restart", result="exit-code", exec_code=1, exec_status=1),
            [],
            Health.STARTING,
            "x.service exited with status 1; systemd starts it again",
        ),
        (unit(ActiveState.DEACTIVATING), [], Health.STOPPING, "x.service is stopping"),
        (unit(ActiveState.FAILED, result="oom-kill"), [], Health.FAILED, "out of memory"),
        (unit(ActiveState.UNKNOWN), [], Health.UNKNOWN, "the state of x.service is not known"),
        (unit(), [], Health.READY, ""),
        (unit(ActiveState.RELOADING), [probe(R, True)], Health.READY, ""),
        (unit(), [probe(R, None)], Health.STARTING, "x.service runs and has not answered yet"),
        (unit(), [probe(R, None, "refused")], Health.STARTING, "x.service runs and has not answered yet: refused"),
        (unit(), [probe(R, False, "503")], Health.UNREADY, "readiness probe: 503"),
        (unit(), [probe(R, True), probe(L, None)], Health.READY, ""),
        (unit(), [probe(R, True), probe(L, False, "hangs")], Health.UNREADY, "liveness probe: hangs"),
        (unit(), [probe(S, None), probe(R, True)], Health.STARTING, "x.service runs and has not answered yet"),
        (unit(), [probe(S, False, "late"), probe(R, None)], Health.UNREADY, "startup probe: late"),
        (unit(), [probe(S, True), probe(R, True), probe(L, True)], Health.READY, ""),
    ],
)
def test_roll_up(state: UnitState, probes: list[ProbeStatus], health: Health, cause: str) -> None:
    verdict = roll_up(state, probes, {"redis": Health.READY})
    assert verdict.health is health
    assert verdict.cause == cause or (health is Health.FAILED and state.name in verdict.cause)
    assert bool(verdict.cause) is (health is not Health.READY)
    assert verdict.blocked_by == ()


def test_dependencies_degrade_what_is_ready() -> None:
    others = {"redis": Health.FAILED, "qwen": Health.READY, "new": Health.UNKNOWN, "ollama": Health.DEGRADED}
    verdict = roll_up(unit(), [], others)
    assert (verdict.health, verdict.blocked_by) == (Health.DEGRADED, ("redis",))
    assert verdict.cause == "it depends on others: redis is failed"
    own = roll_up(unit(), [probe(R, False, "503")], others)
    assert (own.health, own.cause, own.blocked_by) == (Health.UNREADY, "readiness probe: 503", ("redis",))
