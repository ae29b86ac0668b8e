"""Runs the probes of one service: startup first, then readiness and liveness side by side while the unit is up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from agentd.core.checks import Tracker
from agentd.core.schema import Probe, Service
from agentd.errors import AgentdError
from agentd.ports import Clock, Prober
from agentd.types import ProbeKind, ProbeStatus

log = logging.getLogger(__name__)


Further = Callable[[float], Awaitable[None]]
"""(seconds): what readiness asks besides its probe. Raises AgentdError with what is wrong."""


class Probing:
    """`on_news()` comes after every answer. `restart` begins anew after the unit's main process changed."""

    def __init__(
        self,
        service: Service,
        probes: Mapping[ProbeKind, Probe],
        prober: Prober,
        clock: Clock,
        on_news: Callable[[], None],
        further: Further | None = None,
    ) -> None:
        self._service = service
        self._further = further
        self._probes = probes
        self._prober = prober
        self._clock = clock
        self._on_news = on_news
        self._trackers = {kind: Tracker(kind, probe) for kind, probe in probes.items()}
        self._task: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()

    @property
    def statuses(self) -> tuple[ProbeStatus, ...]:
        return tuple(t.status for t in self._trackers.values())

    def status(self, kind: ProbeKind) -> ProbeStatus | None:
        tracker = self._trackers.get(kind)
        return tracker.status if tracker is not None else None

    def restart(self) -> None:
        """Forget all verdicts and begin with the startup probe."""
        self.stop()
        self._trackers = {kind: Tracker(kind, probe) for kind, probe in self._probes.items()}
        if self._probes:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(_look_at)

    def hurry(self) -> None:
        """Ask now instead of at the next period; what is known stays known."""
        self._hurried.set()
        self._hurried = asyncio.Event()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        if ProbeKind.STARTUP in self._probes:
            await self._until_started()
        rest = [kind for kind in self._probes if kind is not ProbeKind.STARTUP]
        async with asyncio.TaskGroup() as group:
            for kind in rest:
                twin = self._twin(kind)
                if twin is None:
                    group.create_task(self._repeat(kind))

    def _twin(self, kind: ProbeKind) -> ProbeKind | None:
        """Readiness that asks what liveness asks, and as often, is answered by the same request."""
        if kind is not ProbeKind.READINESS or ProbeKind.LIVENESS not in self._probes or self._further is not None:
            return None
        same = _question(self._probes[kind]) == _question(self._probes[ProbeKind.LIVENESS])
        return ProbeKind.LIVENESS if same else None

    async def _until_started(self) -> None:
        probe = self._probes[ProbeKind.STARTUP]
        await self._pause(probe.initial_delay)
        while not await self._started():
            await self._pause(probe.period)

    async def _started(self) -> bool:
        """One look; True once the startup probe has passed."""
        await self._once((ProbeKind.STARTUP,))
        return self._trackers[ProbeKind.STARTUP].status.passing is True

    async def _repeat(self, kind: ProbeKind) -> None:
        probe = self._probes[kind]
        kinds = [kind, *(k for k in self._probes if self._twin(k) is kind)]
        await self._pause(probe.initial_delay)
        while True:
            await self._once(tuple(kinds))
            await self._pause(probe.period)

    async def _pause(self, seconds: float) -> None:
        """Until the time has passed, or somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()

    async def _once(self, kinds: tuple[ProbeKind, ...]) -> None:
        """One look, told to every kind that it answers: each judges by its own timeout whether it came in time."""
        begun = self._clock.monotonic()
        error = ""
        patience = max(self._probes[kind].timeout for kind in kinds)
        try:
            await check(self._prober, self._service, self._probes[kinds[0]], patience)
            if self._further is not None and kinds == (ProbeKind.READINESS,):
                await self._further(max(0.1, patience - (self._clock.monotonic() - begun)))
        except AgentdError as failure:
            error = failure.message
        except Exception as failure:  # A bug must not leave the last verdict standing for ever.
            log.exception("probe.internal", extra={"data": {"unit": self._service.unit}})
            error = f"internal error ({type(failure).__name__})"
        took = self._clock.monotonic() - begun
        for kind in kinds:
            limit = self._probes[kind].timeout
            late = "" if error or took <= limit else f"no answer within {limit:g} s"
            failed = error or late
            self._trackers[kind].observe(ok=not failed, detail=failed, now=self._clock.time(), seconds=took)
        self._on_news()


def _look_at(task: asyncio.Task[None]) -> None:
    """Probing ends only when it is stopped; anything else must not go unseen."""
    if not task.cancelled() and task.exception() is not None:
        log.error("probing.died", exc_info=task.exception())


def _question(probe: Probe) -> tuple[object, ...]:
    """What is asked and when, whatever is made of the answer."""
    return probe.http, probe.tcp, probe.redis, probe.exec, probe.period, probe.initial_delay


async def check(prober: Prober, service: Service, probe: Probe, timeout: float) -> None:
    """One probe, now. Raises AgentdError with what came instead of success."""
    if probe.http is not None:
        url = probe.http.path if "://" in probe.http.path else service.url.rstrip("/") + probe.http.path
        answer = await prober.http(url, timeout=timeout)
        if answer.status not in probe.http.expect:
            raise AgentdError("probe-failed", f"{url} answered {answer.status}")
    elif probe.tcp:
        parts = urlsplit(service.url)
        await prober.tcp(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout)
    elif probe.redis:
        await prober.redis_ping(service.url, timeout=timeout)
    elif probe.exec:
        await prober.exec(probe.exec, timeout=timeout)
