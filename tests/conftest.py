"""Async tests run under asyncio.Runner in debug mode; a callback that blocks the loop fails the test."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import pytest

BLOCKED_AFTER = 0.25
"""Seconds one callback may hold the loop; generous, since two cores run many servers at once."""


class _BlockedCalls(logging.Handler):
    """Collects asyncio's "Executing ... took" warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Executing "):
            self.messages.append(text)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}
    handler = _BlockedCalls()
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        with asyncio.Runner(debug=True) as runner:
            runner.get_loop().slow_callback_duration = BLOCKED_AFTER
            runner.run(pyfuncitem.obj(**arguments))
    finally:
        logger.removeHandler(handler)
    if handler.messages and "allows_blocking" not in pyfuncitem.keywords:
        pytest.fail("the event loop was blocked: " + "; ".join(handler.messages))
    return True
