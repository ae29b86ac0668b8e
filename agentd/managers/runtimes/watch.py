"""One runtime, looked at by its API every so often: what it has loaded, and how much of that is on a GPU."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

from agentd.core import ollama
from agentd.core.schema import Service
from agentd.errors import AgentdError
from agentd.ports import Clock, Prober
from agentd.runtimes import RuntimeStatus
from agentd.types import ActiveState

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0
LONGEST = 60.0
"""Seconds between two questions to one that does not answer, at most."""
VERSION_LOOKS = 100
"""Its version changes with a restart alone, which nobody may tell us: so often it is asked again."""
RUNNING = (ActiveState.ACTIVE, ActiveState.RELOADING, ActiveState.REFRESHING)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the supervision knows of its unit; always running where that is not our manager's."""

    running: bool
    pid: int = 0


class RuntimeWatch:
    """A task of its own; `on_look(watch)` after every answer, and every missing one. A unit that does not run is not
    asked at all."""

    def __init__(
        self, name: str, service: Service, prober: Prober, clock: Clock, on_look: Callable[[RuntimeWatch], None]
    ) -> None:
        self.name = name
        self.service = service
        self.status = RuntimeStatus(name, service.unit, service.url, service.runtime.policy, service.runtime.managed)
        self.known: frozenset[str] | None = None
        """Models on the GPU that are no news; None before the first look."""
        self._prober = prober
        self._clock = clock
        self._on_look = on_look
        self._seen = Seen(running=not service.own_unit)
        self._failures = self._looks = 0
        self._wake = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    @property
    def running(self) -> bool:
        return self._seen.running

    @property
    def pid(self) -> int:
        """Its main process; 0 where it is not known."""
        return self._seen.pid

    def on_gpu(self) -> frozenset[str]:
        return frozenset(model.name for model in self.status.models if model.size_vram)

    def see(self, seen: Seen) -> None:
        """The supervision has read its unit: another process is asked at once, with no regard to earlier failures."""
        if seen == self._seen:
            return
        self._seen, self._failures, self._looks = seen, 0, 0
        if self.known is not None:
            self.known = frozenset()  # What another process has loaded is news.
        if not seen.running:
            self.status = dataclasses.replace(self.status, reachable=None, models=(), error="")
            self._on_look(self)
        self._wake.set()

    def hurry(self) -> None:
        """Look now instead of at the next period."""
        self._wake.set()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    # -- inside -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._seen.running:
                try:
                    await self._look()
                except Exception as error:  # Nobody awaits this task: a bug must be seen, and cost one look.
                    log.exception("runtime.internal", extra={"data": {"runtime": self.name}})
                    text = f"internal error ({type(error).__name__})"
                    self.status = dataclasses.replace(self.status, reachable=False, error=text)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()

    def _pause(self) -> float | None:
        """Seconds to the next look; None: until it is woken."""
        if not self._seen.running:
            return None
        every = self.service.runtime.watch_every
        return min(max(LONGEST, every), every * 2.0 ** min(self._failures, 16))

    async def _look(self) -> None:
        seen = self._seen
        try:
            found = await self._asked()
        except AgentdError as error:
            found = dataclasses.replace(self.status, reachable=False, models=(), error=error.message)
        if seen != self._seen:
            return  # It is about another process by now, which is looked at next.
        self._failures = 0 if found.reachable else self._failures + 1
        self.status = dataclasses.replace(found, observed=self._clock.time())
        self._on_look(self)

    async def _asked(self) -> RuntimeStatus:
        url = self.service.url.rstrip("/")
        answer = await self._prober.http(url + ollama.PS, timeout=ASK_SECONDS)
        models = ollama.loaded(answer.status, answer.body)
        version = self.status.version
        if self._looks % VERSION_LOOKS == 0 or not self.status.reachable:
            told = await self._prober.http(url + ollama.VERSION, timeout=ASK_SECONDS)
            version = ollama.version(told.status, told.body)
        self._looks += 1
        return dataclasses.replace(self.status, reachable=True, version=version, models=models, error="")
