"""The reconcile loop: every manager looks at its part when woken and every so often; errors stay with their manager."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from agentd.errors import AgentdError
from agentd.ports import Notifier

log = logging.getLogger(__name__)

QUIET = 0.02
"""Seconds between two passes at least, so that a flood of signals is one pass, not hundreds."""


class Manager(Protocol):
    @property
    def name(self) -> str: ...

    async def ensure(self) -> None:
        """Look at everything, start no long work."""
        ...


class ReconcileLoop:
    """`wake` asks for a pass; the watchdog is petted from here, so a stuck loop is noticed by systemd."""

    def __init__(self, managers: Sequence[Manager], notifier: Notifier, *, period: float) -> None:
        self._managers = managers
        self._notifier = notifier
        self._period = period
        self._wake = asyncio.Event()
        self.errors: dict[str, str] = {}
        self.first_pass = asyncio.Event()
        self.on_pass: list[Callable[[], None]] = []

    def wake(self) -> None:
        self._wake.set()

    async def once(self) -> None:
        for manager in self._managers:
            try:
                await manager.ensure()
                self.errors.pop(manager.name, None)
            except AgentdError as error:
                self._failed(manager.name, error.message)
            except Exception as error:  # One manager's bug must not blind the others.
                log.exception("reconcile.internal", extra={"data": {"manager": manager.name}})
                self._failed(manager.name, f"internal error ({type(error).__name__})")
        self.first_pass.set()
        for listener in self.on_pass:
            listener()

    def _failed(self, name: str, text: str) -> None:
        if self.errors.get(name) != text:
            log.warning("reconcile.failed", extra={"data": {"manager": name, "error": text}})
        self.errors[name] = text

    async def run(self) -> None:
        """Until cancelled."""
        ping = self._notifier.watchdog_period
        loop = asyncio.get_running_loop()
        next_pass = loop.time() + self._period
        while True:
            limit = next_pass - loop.time()
            if ping is not None:
                limit = min(limit, ping)
            woken = await self._sleep(max(0.0, limit))
            self._notifier.watchdog()
            if woken or loop.time() >= next_pass:
                await self.once()
                next_pass = loop.time() + self._period
                await asyncio.sleep(QUIET)

    async def _sleep(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True
