"""The detector of blocked loops must itself be able to fail."""

from __future__ import annotations

import asyncio
import time

import conftest
import pytest
from conftest import blocked_calls

LIMIT = 0.03


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "BLOCKED_AFTER", LIMIT)


def test_a_callback_that_computes_too_long_is_found() -> None:
    async def busy() -> None:
        end = time.thread_time() + LIMIT * 1.5
        while time.thread_time() < end:
            pass

    with blocked_calls() as found:
        asyncio.run(busy())
    assert len(found) == 1
    assert "s of CPU" in found[0]


def test_a_callback_that_waits_too_long_is_found() -> None:
    async def asleep() -> None:
        time.sleep(LIMIT * 5)  # noqa: ASYNC251

    with blocked_calls() as found:
        asyncio.run(asleep())
    assert len(found) == 1


def test_short_ones_are_not() -> None:
    with blocked_calls() as found:
        asyncio.run(asyncio.sleep(0.01))
    assert found == []
