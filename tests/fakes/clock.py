"""A clock that jumps: time stands still while anything can run, then leaps to the next timer."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from typing import Any

STUCK_AFTER = 10.0
"""Real seconds without any timer or event before a test is called stuck."""


class FakeClock:
    """Virtual time for the whole running loop: clock.sleep, asyncio.sleep, asyncio.timeout, call_later.

    Create it inside the loop (or call `install()` there). It must not be mixed with threads or real sockets: virtual
    time would run ahead of them. `limit` bounds the virtual seconds, so that an endless poll fails instead of spinning.
    """

    def __init__(self, start: float = 1_800_000_000.0, limit: float = 14 * 86400.0) -> None:
        self._wall = start
        self._origin = self._now = 1000.0
        self._limit = limit
        with contextlib.suppress(RuntimeError):
            self.install()

    def install(self) -> None:
        """Take over the running loop's time."""
        loop: Any = asyncio.get_running_loop()
        if not isinstance(loop._selector, _JumpingSelector):
            shift = loop.time() - self._now
            for timer in loop._scheduled:
                timer._when -= shift
            loop._selector = _JumpingSelector(loop._selector, self)
            loop.time = self.monotonic

    def time(self) -> float:
        return self._wall + self._now - self._origin

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    async def advance(self, seconds: float) -> None:
        """Let everything that is due within `seconds` happen, and what follows from the last of it."""
        await asyncio.sleep(seconds)
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can run at this instant."""
        await asyncio.sleep(1e-6)

    def step_wall(self, seconds: float) -> None:
        """The wall clock is set; monotonic time does not notice."""
        self._wall += seconds

    def _leap(self, seconds: float) -> None:
        self._now += seconds + 1e-9
        if self._now - self._origin > self._limit:
            raise RuntimeError(f"the test ran for more than {self._limit:g} virtual seconds: an endless wait")


class _JumpingSelector:
    def __init__(self, real: selectors.BaseSelector, clock: FakeClock) -> None:
        self._real = real
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            events = self._real.select(STUCK_AFTER)
            if not events:
                raise RuntimeError("stuck: every task waits and no timer is set")
            return events
        events = self._real.select(0)
        if not events and timeout > 0:
            self._clock._leap(timeout)
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
