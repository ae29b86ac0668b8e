"""What a crash or a lost bus cut off is brought to its end: at the start, and when systemd is back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from agentd.core.backoff import backoff_seconds
from agentd.errors import AgentdError
from agentd.ports import Clock

log = logging.getLogger(__name__)

PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds after a try that failed, however much news there is: a try may reload systemd, which is news by itself."""
AGAIN = 60.0
"""Seconds until a try without any news: a bus that was slow is not announced as back."""


class Recovery:
    """One try at a time. The first is owed from the start on, a later one after an installation that lost its bus."""

    def __init__(self, recover: Callable[[], Awaitable[str]], done: Callable[[str], Awaitable[None]], clock: Clock):
        """`recover()` finishes or undoes what was cut off and says so, "" when there was nothing; raises AgentdError.
        `done(said)` comes after each that succeeded."""
        self._recover = recover
        self._done = done
        self._clock = clock
        self._owed = True
        self._news = asyncio.Event()
        self._news.set()

    @contextlib.contextmanager
    def owed(self) -> Iterator[None]:
        """Around an installation: one that ends with the bus may have left something half done."""
        try:
            yield
        except AgentdError as error:
            if _of_the_bus(error):
                self._owed = True
                self._news.set()
            raise

    def systemd_is_back(self) -> None:
        """Or was reloaded, or lost: it is only worth a try."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled. What fails for another reason than the bus is told and not tried again."""
        failed = 0
        while True:
            await self._listen()
            if not self._owed:
                continue
            failed = 0 if await self._tried() else failed + 1
            if failed:
                await self._clock.sleep(backoff_seconds(failed, base=PAUSE, cap=LONGEST_PAUSE))

    async def _listen(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN if self._owed else None):
                await self._news.wait()
        self._news.clear()

    async def _tried(self) -> bool:
        """False: it is to be tried again."""
        self._owed = False
        try:
            await self._done(await self._recover())
        except AgentdError as error:
            log.warning("hardening.not-recovered", extra={"data": {"error": error.message}})
            self._owed = self._owed or _of_the_bus(error)
        return not self._owed


def _of_the_bus(error: AgentdError) -> bool:
    return error.kind.startswith("bus-")
