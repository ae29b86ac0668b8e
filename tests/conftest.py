"""Async tests run in a loop of their own, and a callback that holds that loop fails the test."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BLOCKED_AFTER = 0.25
"""Seconds one callback may hold the loop; generous, since two cores run many servers at once."""


@contextmanager
def blocked_calls() -> Iterator[list[str]]:
    """Callbacks that ran longer than BLOCKED_AFTER, by CPU time: a busy machine is nobody's fault.

    A callback that waits (for a lock, a file, a socket) uses no CPU, so its wall time counts from four times as much.
    """
    found: list[str] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        run(handle)
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        if cpu > BLOCKED_AFTER or wall > 4 * BLOCKED_AFTER:
            found.append(f"{handle!r} took {wall:.2f} s ({cpu:.2f} s of CPU)")

    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield found
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


def pytest_collection_finish() -> None:
    """What is there now stays: a collection that looks at all of it again takes tenths of a second, in any callback."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}
    # The unit tier runs in virtual time, where asyncio's debug mode would only multiply the cost of every step.
    debug = "/unit/" not in str(pyfuncitem.path)
    with blocked_calls() as blocked, asyncio.Runner(debug=debug) as runner:
        if debug:
            runner.get_loop().slow_callback_duration = 1e9
        runner.run(pyfuncitem.obj(**arguments))
    if blocked and "allows_blocking" not in pyfuncitem.keywords:
        pytest.fail("the event loop was blocked: " + "; ".join(blocked))
    return True
