"""The gateway, supervised: looked at when its unit, its file or its sources change, and every few seconds. Everybody
else reads the snapshot. Which model a slot holds is written for it at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from agentd.core.schema import Service, Settings
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.findings import Finding
from agentd.gateway import GatewayState, GatewayStatus
from agentd.managers.gateway.actions import GatewayActions
from agentd.managers.gateway.context import Gateway
from agentd.managers.gateway.routes import RouteWriter
from agentd.managers.gateway.watcher import Watcher, WatcherParts
from agentd.ports_hardening import FileWatch
from agentd.types import Change

log = logging.getLogger(__name__)

Make = Callable[[str, Service, Settings], Gateway]
"""(name, service, settings) -> the gateway with its files and its planner."""


@dataclass(frozen=True, slots=True)
class _Spec:
    """What a watcher depends on: another one of these needs a new watcher."""

    name: str
    service: Service
    policy: object
    models: Mapping[str, tuple[str, str]]


class GatewayManager:
    name = "gateway"

    def __init__(
        self,
        parts: WatcherParts,
        actions: GatewayActions,
        routes: RouteWriter,
        make: Make,
        watch: FileWatch,
        world: World,
    ) -> None:
        self._parts = parts
        self._actions = actions
        self._routes = routes
        self._make = make
        self._watch = watch
        self._world = world
        self._watcher: Watcher | None = None
        self._pid = 0
        world.on_slot.append(routes.note)

    # -- what the snapshot says -------------------------------------------------------------------------------

    def status(self) -> GatewayStatus | None:
        """None when no gateway is configured."""
        return self._watcher.status if self._watcher is not None else None

    def findings(self) -> tuple[Finding, ...]:
        status = self.status()
        return status.findings if status is not None else ()

    def problems(self) -> list[str]:
        """What keeps agentd from being ready."""
        status = self.status()
        bad = status is not None and status.state is GatewayState.OPEN
        return [f"{status.service}: {status.summary}"] if status is not None and bad else []

    def busy(self, unit: str) -> str:
        """Id of the change that is at work on the gateway with that unit: nobody else may stop it meanwhile."""
        watcher = self._watcher
        return self._actions.running() if watcher is not None and watcher.gateway.unit == unit else ""

    def gateway(self) -> Gateway:
        """Raises AgentdError("gateway-not-found")."""
        if self._watcher is None:
            hint = 'a gateway is a service with role "gateway"'
            raise AgentdError("gateway-not-found", "no gateway is configured", hint=hint)
        return self._watcher.gateway

    def follow(self, task: asyncio.Task[Change]) -> None:
        """A change that somebody asked for: the gateway is looked at anew once it has ended."""
        watcher = self._watcher
        if watcher is not None:
            watcher.hurry()
            task.add_done_callback(lambda _: watcher.sources_changed())

    async def check_ready(self, service: str, timeout: float) -> None:
        """What the readiness of this service is, beyond its probe. Raises AgentdError with what is wrong."""
        if self._watcher is not None and self._watcher.gateway.name == service:
            await self._watcher.check_ready(timeout)

    async def verify(self) -> GatewayStatus:
        """Looks anew."""
        self.gateway()
        assert self._watcher is not None
        return await self._watcher.look_now()

    # -- news -------------------------------------------------------------------------------------------------

    async def start(self, settings: Settings) -> None:
        """Nobody waits here for LiteLLM. Raises AgentdError."""
        self._routes.start()
        await self.apply(settings)
        await self._actions.recover(self._watcher.gateway if self._watcher is not None else None)
        if self._watcher is not None:
            self._watcher.hurry()

    async def apply(self, settings: Settings) -> None:
        found = next(((n, s) for n, s in settings.services.items() if s.role == "gateway"), None)
        spec = _spec(*found, settings) if found is not None else None
        if self._watcher is not None and self._watcher.spec == spec:
            return
        if self._watcher is not None:
            await self._watcher.close()
            self._watcher = None
        if found is not None:
            gateway = self._make(*found, settings)
            self._watcher = Watcher(gateway, spec, self._parts)
            self._watch_files(gateway)
            self._watcher.start()

    async def ensure(self) -> None:
        """Called by every pass: a gateway whose process is another one is looked at at once."""
        self._routes.note()
        watcher = self._watcher
        if watcher is None:
            return
        status = self._world.service(watcher.gateway.name)
        pid = status.main_pid if status is not None else 0
        if pid != self._pid:
            self._pid = pid
            watcher.hurry()

    def unit_changed(self, unit: str | None) -> None:
        if self._watcher is not None and unit in (None, self._watcher.gateway.unit):
            self._watcher.hurry()

    def _watch_files(self, gateway: Gateway) -> None:
        policy = gateway.policy
        folders = {
            policy.sources.rstrip("/"),
            *(str(PurePosixPath(f).parent) for f in (policy.config, policy.env_file)),
        }
        try:
            self._watch.watch(tuple(sorted(folders)), self._file_changed)
        except AgentdError as error:  # The next look sees it, too; a plan is made anew every five minutes.
            log.warning("gateway.unwatched", extra={"data": {"error": error.message}})

    def _file_changed(self, _: str) -> None:
        if self._watcher is not None:
            self._watcher.sources_changed()

    async def close(self) -> None:
        self._watch.close()
        if self._watcher is not None:
            await self._watcher.close()
        await self._routes.close()


def _spec(name: str, service: Service, settings: Settings) -> _Spec:
    models = {n: (s.url, s.model.slot) for n, s in settings.services.items() if s.model is not None}
    return _Spec(name, service, settings.gateway, models)
