"""Delays grow, stay below their cap, and never overflow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.backoff import SPREAD, backoff_seconds, cooldown_seconds, exponential


def test_recovery_doubles_to_its_cap() -> None:
    assert [backoff_seconds(n, base=30, cap=900) for n in range(8)] == [0, 30, 60, 120, 240, 480, 900, 900]


def test_cooldown_of_a_model() -> None:
    assert [cooldown_seconds(n, base=30, cap=600) for n in range(6)] == [0, 30, 120, 480, 600, 600]
    assert cooldown_seconds(3, base=0, cap=600) == 0


def test_jitter_only_shortens() -> None:
    assert backoff_seconds(1, base=100, cap=900, jitter=0.5) == pytest.approx(100 * (1 - SPREAD / 2))
    assert backoff_seconds(1, base=100, cap=900, jitter=7) == pytest.approx(100 * (1 - SPREAD))


@given(st.integers(1, 10**6), st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.floats(1.1, 10))
def test_bounds(count: int, base: float, cap: float, factor: float) -> None:
    delay = exponential(count, base=base, cap=cap, factor=factor)
    assert 0 < delay <= cap
    assert delay >= exponential(count - 1, base=base, cap=cap, factor=factor)
