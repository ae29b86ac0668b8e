"""Counts that only grow, kept by the daemon as changes finish; plain Python, so that nothing is imported for it."""

from __future__ import annotations

import bisect
from collections import Counter
from typing import TypeVar

from agentd.metrics.view import ChangeTotals, Distribution
from agentd.types import Change, Outcome

SWITCH_BOUNDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 900.0)
PHASE_BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

K = TypeVar("K", bound=tuple[str, ...])

_NO_TIME = frozenset({Outcome.ALREADY, Outcome.REFUSED, Outcome.DRAIN_REFUSED, Outcome.CANCELLED})
"""Outcomes whose duration says nothing about what a switch costs."""


class Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        value = max(0.0, value)
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> Distribution:
        return Distribution(self._bounds, tuple(self._counts), self._total)


class ChangeRecorder:
    """Call `record` once for every change that has finished."""

    def __init__(self) -> None:
        self._switches: Counter[tuple[str, str, str]] = Counter()
        self._durations: dict[tuple[str, str, str], Histogram] = {}
        self._phases: dict[tuple[str, str], Histogram] = {}
        self._changes: Counter[tuple[str, str]] = Counter()
        self._last: dict[str, float] = {}

    def record(self, change: Change) -> None:
        if change.outcome is None or change.finished is None:
            return
        source, target = change.previous or "none", change.target or "none"
        self._changes[change.kind, change.outcome.value] += 1
        self._last[change.kind] = change.finished
        if change.kind == "switch":
            self._switches[source, target, change.outcome.value] += 1
            if change.outcome not in _NO_TIME:
                seconds = change.finished - change.created
                _of(self._durations, (source, target, change.way or "unknown"), SWITCH_BOUNDS).observe(seconds)
        for phase in change.phases:
            if phase.seconds is not None:
                _of(self._phases, (phase.phase, target), PHASE_BOUNDS).observe(phase.seconds)

    def totals(self) -> ChangeTotals:
        return ChangeTotals(
            dict(self._switches),
            {key: h.snapshot() for key, h in self._durations.items()},
            {key: h.snapshot() for key, h in self._phases.items()},
            dict(self._changes),
            dict(self._last),
        )


def lag_histogram() -> Histogram:
    """For the daemon's loop-lag sampler."""
    return Histogram(LAG_BOUNDS)


def _of(histograms: dict[K, Histogram], key: K, bounds: tuple[float, ...]) -> Histogram:
    return histograms.setdefault(key, Histogram(bounds))
