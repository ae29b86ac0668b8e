"""Keeps a bus connection to the manager: connects, prepares, watches for its death, connects again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from agentd.adapters.bus import Bus, Signal
from agentd.adapters.bus_codec import choose
from agentd.adapters.systemd_props import NAME
from agentd.errors import AgentdError, BusError

logger = logging.getLogger(__name__)

FIRST_RETRY = 0.05
LONGEST_RETRY = 2.0


class Link:
    """`prepare(bus)` runs on every new connection before it counts as connected; `on_down()` after a loss."""

    def __init__(
        self,
        address: str,
        *,
        prepare: Callable[[Bus], Awaitable[None]],
        on_down: Callable[[], None],
        on_signal: Callable[[Signal], None],
        library: str = "auto",
    ) -> None:
        self.address = address
        self._library = choose(library).name  # a wrong choice is an error now, not at every attempt
        self._prepare = prepare
        self._on_down = on_down
        self._on_signal = on_signal
        self._bus: Bus | None = None
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._failures = 0
        self._warned = ""
        self.reconnects = 0
        self.problem = "not started"
        """Why there is no connection; "" while there is one."""

    @property
    def connected(self) -> bool:
        return self._bus is not None and self._bus.connected

    def bus(self, doing: str) -> Bus:
        """The live connection. Raises BusError("bus-down") which says why there is none."""
        if self._bus is None or not self._bus.connected:
            raise BusError("bus-down", f"cannot {doing}: no connection to {NAME} ({self.problem})")
        return self._bus

    async def start_up(self, patience: float) -> None:
        """Start connecting; returns once connected, or after `patience` seconds while it goes on trying."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="systemd-link")
        with suppress(TimeoutError):  # Not wait_for, which in Python 3.11 may swallow a cancellation.
            async with asyncio.timeout(patience):
                await self._up.wait()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.problem = "closed"

    async def _keep(self) -> None:
        delay = FIRST_RETRY
        connections = 0
        while True:
            try:
                bus = await self._open()
            except Exception as error:
                self._failed(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_RETRY)
                continue
            delay = FIRST_RETRY
            self._failures, self._warned = 0, ""
            connections += 1
            self.reconnects = connections - 1
            await self._hold(bus)

    def _failed(self, error: Exception) -> None:
        """A warning once per reason, not once per attempt; a first failure is no news, since a bus that our own
        connection starts knows systemd only some milliseconds later."""
        known = isinstance(error, AgentdError)
        problem = str(error) if known else f"internal error: {error!r}"
        self._failures += 1
        if self._failures == 1 and known:
            logger.debug("no connection to systemd yet: %s", problem)
        elif self._warned != problem:
            self._warned = problem
            logger.warning("no connection to systemd, trying again: %s", problem, exc_info=None if known else error)
        self.problem = problem

    async def _open(self) -> Bus:
        bus = await Bus.connect(self.address, on_signal=self._on_signal, library=self._library)
        try:
            await self._prepare(bus)
        except BaseException:
            await bus.close()
            raise
        return bus

    async def _hold(self, bus: Bus) -> None:
        self._bus = bus
        self.problem = ""
        self._up.set()
        try:
            await bus.wait_closed()
            self.problem = f"the bus connection was lost: {bus.lost_because}"
            logger.warning("%s", self.problem)
        finally:
            self._bus = None
            self._up.clear()
            await bus.close()
            self._on_down()
