"""The gateway, watched by one task: look, judge, tell, sweep, wait for news or the next look."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from agentd.core.gateway.figures import figures
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.gateway import SERVING, GatewayStatus
from agentd.managers.gateway.actions import GatewayActions
from agentd.managers.gateway.context import Gateway, GatewayPorts
from agentd.managers.gateway.judge import fault
from agentd.managers.gateway.look import GatewayView, Looker
from agentd.managers.gateway.routes import RouteWriter
from agentd.managers.gateway.status import seen

log = logging.getLogger(__name__)

SOON, GROWTH = 0.5, 1.6
"""Seconds until a gateway that does not serve is looked at again, and by how much that grows, up to `check_every`."""
FIGURES_SECONDS = 60.0
FIGURES_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class WatcherParts:
    ports: GatewayPorts
    actions: GatewayActions
    routes: RouteWriter
    events: EventLog
    seen: Callable[[str], None]
    """Told the name of the source at each look, for its age."""


class Watcher:
    """`spec`: what the configuration says; a watcher is replaced when that changes."""

    def __init__(self, gateway: Gateway, spec: object, parts: WatcherParts) -> None:
        self.gateway = gateway
        self.spec = spec
        self.status = GatewayStatus(gateway.name, gateway.unit, gateway.url)
        self._parts = parts
        self._looker = Looker(parts.ports, gateway)
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pause = SOON
        self._figures_at = float("-inf")

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    def hurry(self) -> None:
        self._pause = SOON
        self._news.set()

    def sources_changed(self) -> None:
        self._looker.forget()
        self.hurry()

    async def look_now(self) -> GatewayStatus:
        """For somebody who waits for it."""
        self._looker.forget()
        async with self._lock:
            await self._look()
        return self.status

    async def check_ready(self, timeout: float) -> None:
        """What readiness is, beyond that it answers. Raises AgentdError("probe-failed")."""
        state, wanted = await self._looker.public(timeout=timeout)
        if wanted.expected is not None and (wrong := fault(state, wanted)):
            raise AgentdError("probe-failed", wrong)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            self._news.clear()
            try:
                async with self._lock:
                    await self._round()
            except Exception:  # A bug here must not end the watch, nor go unseen.
                log.exception("gateway.internal")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait()):
                    await self._news.wait()

    def _wait(self) -> float:
        every = self.gateway.policy.check_every
        if self.status.state in SERVING and not self.status.change:
            self._pause = SOON
            return every
        self._pause = min(every, self._pause * GROWTH)
        return self._pause

    async def _round(self) -> None:
        view = await self._look()
        if view is None:
            return
        await self._read_figures(view)
        if view.standby.active_state.up and self.gateway.policy.mode == "enforce":
            await self._sweep()

    async def _look(self) -> GatewayView | None:
        parts = self._parts
        busy = parts.actions.running()
        try:
            view = await self._looker.look()
        except AgentdError as error:
            unknown = Finding(
                self.gateway.unit, "look", Verdict.NOT_PROVABLE, Severity.WARNING, cause=error.message, fix=error.hint
            )
            self.status = replace(self.status, summary=error.message, findings=(unknown,), change=busy)
            return None
        busy = busy or parts.actions.running()
        status = seen(self.status, view, parts.routes.resident, change=busy)
        if parts.routes.problem:
            stale = Finding(
                self.gateway.unit, "routes", Verdict.NOT_EFFECTIVE, Severity.WARNING, cause=parts.routes.problem
            )
            status = replace(status, findings=(*status.findings, stale))
        self._publish(status)
        parts.seen("gateway")
        return view

    def _publish(self, now: GatewayStatus) -> None:
        before, self.status = self.status, now
        if before.state is not now.state or not before.at:
            why = f": {now.summary}" if now.summary else ""
            self._parts.events.emit(f"gateway.{now.state.value}", now.service, f"{now.state.value}{why}")

    async def _read_figures(self, view: GatewayView) -> None:
        """LiteLLM's own counts; it has none where its policy switches them off."""
        ports, now = self._parts.ports, self._parts.ports.clock.monotonic()
        if not view.public.alive or not view.has_key or now - self._figures_at < FIGURES_SECONDS:
            return
        self._figures_at = now
        try:
            key = await self._looker.key(view.file)
            text = await ports.proxy.metrics(self.gateway.public, key, timeout=FIGURES_TIMEOUT)
        except AgentdError as error:
            log.info("gateway.no-figures", extra={"data": {"error": error.message}})
            return
        found = await ports.aside(lambda: figures(text, view.public.models)) if text else None
        self.status = replace(self.status, figures=found)

    async def _sweep(self) -> None:
        try:
            told = await self._parts.actions.sweep(self.gateway)
        except AgentdError as error:
            log.warning("gateway.not-swept", extra={"data": {"error": error.message}})
            return
        if told:
            self._parts.events.emit("gateway.swept", self.gateway.name, told)
