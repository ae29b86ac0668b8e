"""The reconcile loop: every manager looks at its part when woken and every so often; errors stay with their manager."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from agentd.errors import AgentdError
from agentd.ports import Notifier

log = logging.getLogger(__name__)

QUIET = 0.02
"""Seconds between a wake-up and its pass, so that a flood of signals is one pass, not hundreds."""
RETRY = 5.0
"""Seconds to the next pass after one in which a manager failed: what it could not read is still unread."""
STUCK = 300.0
"""A pass that takes longer is no slow bus any more: the watchdog is not petted, and systemd starts us anew."""


class Manager(Protocol):
    @property
    def name(self) -> str: ...

    async def ensure(self) -> None:
        """Look at everything, start no long work."""
        ...


class ReconcileLoop:
    """`wake` asks for a pass. `heartbeat` pets the watchdog from the event loop itself, so that systemd notices when
    that is stuck; a pass that waits for a slow bus does not count as stuck until STUCK seconds have gone by."""

    def __init__(self, managers: Sequence[Manager], notifier: Notifier, *, period: float) -> None:
        self._managers = managers
        self._notifier = notifier
        self.period = period
        self._begun: float | None = None
        self._passed = asyncio.Event()
        self._wake = asyncio.Event()
        self.errors: dict[str, str] = {}
        self.first_pass = asyncio.Event()
        self.on_pass: list[Callable[[], None]] = []

    def add(self, manager: Manager) -> None:
        self._managers = (*self._managers, manager)

    def wake(self) -> None:
        self._wake.set()

    async def fresh(self, timeout: float) -> None:
        """Until a pass that begins after this call is done, or `timeout` seconds."""
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                if self._begun is not None:
                    await self._passed.wait()
                await self._passed.wait()

    async def once(self) -> None:
        self._begun = asyncio.get_running_loop().time()
        try:
            await self._pass()
        finally:
            self._begun = None
            self._passed.set()
            self._passed = asyncio.Event()

    async def _pass(self) -> None:
        for manager in self._managers:
            try:
                await manager.ensure()
                self.errors.pop(manager.name, None)
            except AgentdError as error:
                self.failed(manager.name, error.message)
            except Exception as error:  # One manager's bug must not blind the others.
                log.exception("reconcile.internal", extra={"data": {"manager": manager.name}})
                self.failed(manager.name, f"internal error ({type(error).__name__})")
        self.first_pass.set()
        for listener in self.on_pass:
            listener()

    def failed(self, name: str, text: str) -> None:
        if self.errors.get(name) != text:
            log.warning("reconcile.failed", extra={"data": {"manager": name, "error": text}})
        self.errors[name] = text

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            due = last + (min(RETRY, self.period) if self.errors else self.period)
            await self._sleep(max(0.0, due - loop.time()))
            await self.once()
            last = loop.time()

    async def heartbeat(self) -> None:
        """Until cancelled."""
        ping, loop = self._notifier.watchdog_period, asyncio.get_running_loop()
        if ping is None:
            return
        while True:
            if self._begun is None or loop.time() - self._begun < STUCK:
                self._notifier.watchdog()
            await asyncio.sleep(ping)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
            # Before the pass, not after: what woke us is often a switch at work, whose questions come first.
            await asyncio.sleep(QUIET)
        self._wake.clear()
