"""The wiring of the gateway: its files, its watch, its changes, and what the API sees of it, put together once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from agentd import paths
from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.adapters.gateway_facts import LocalGatewayFacts
from agentd.adapters.gateway_files import LocalGatewayFiles
from agentd.adapters.inotify import Inotify
from agentd.adapters.litellm_http import LitellmHttp
from agentd.adapters.litellm_install import find_install
from agentd.adapters.litellm_scratch import LocalScratchProxies
from agentd.core.gateway.facts import Facts
from agentd.core.gateway.header import edited, parse_header
from agentd.core.gateway.model import Catalog
from agentd.core.gateway.section import read_section
from agentd.core.gateway.yaml_text import parse
from agentd.core.schema import Service, Settings
from agentd.core.schema_gateway import GatewayPolicy
from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.engine.steps import Steps
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.managers.gateway.actions import ActionParts, GatewayActions
from agentd.managers.gateway.context import FileText, Gateway, GatewayPorts
from agentd.managers.gateway.generation import Generation
from agentd.managers.gateway.manager import GatewayManager
from agentd.managers.gateway.routes import RouteWriter
from agentd.managers.gateway.watcher import WatcherParts
from agentd.managers.models.context import Ports
from agentd.managers.models.patient import PatientControl
from agentd.ports import Store
from agentd.ports_gateway import ROUTES_FILE, ROUTES_LOCK, ScratchProxies
from agentd.surface_gateway import GatewaySurface
from agentd.types import Scope

log = logging.getLogger(__name__)

T = TypeVar("T")

CONTROL_DIR = "agentd-gateway"
"""Below the runtime directory: where the units make their control sockets. A hardened gateway does not see agentd's own
directory, so the routes lie here, too."""


class GatewayParts:
    """The manager for the loop, the surface for the API."""

    def __init__(
        self,
        scope: Scope,
        host: Ports,
        store: Store,
        changes: ChangeBook,
        events: EventLog,
        world: World,
    ) -> None:
        system = scope is Scope.SYSTEM
        state, runtime = paths.state_dir(system=system) / "gateway", paths.runtime_dir(system=system)
        shared, clock = runtime.parent / CONTROL_DIR, host.clock
        self._control_dir = str(shared)
        self._alive = FileLock(shared / ROUTES_LOCK, purpose="tell the gateway what the slots hold")
        self._until_closed = AsyncExitStack()
        self._kernel = host.kernel
        self._world = world
        ports = GatewayPorts(
            PatientControl(host.control),
            host.kernel,
            host.journal,
            clock,
            LitellmHttp(),
            LocalFiles([shared], mode=0o644),
            str(shared / ROUTES_FILE),
            aside,
            read,
            scratch,
        )
        steps = Steps(store, changes, events, clock)
        self.actions = GatewayActions(
            ActionParts(
                ports, steps, lambda name: FileLock(state / f"{name}.lock", purpose=f"change the gateway {name}").hold()
            )
        )
        routes = RouteWriter(ports.runtime_files, ports.routes_path, lambda: world.slots, changes, clock)
        parts = WatcherParts(ports, self.actions, routes, events, world.seen)
        self.manager = GatewayManager(parts, self.actions, routes, self._gateway, Inotify(), world)
        self.surface = GatewaySurface(self.manager, self.actions)

    async def start(self, settings: Settings) -> None:
        """Nobody waits here for LiteLLM. Raises AgentdError."""
        try:
            await self._until_closed.enter_async_context(self._alive.hold())
        except AgentdError as error:  # Then requests for models that are absent fail as without agentd.
            log.warning("gateway.routes-lock", extra={"data": {"error": error.message}})
        await self.manager.start(settings)

    async def close(self) -> None:
        await self.actions.close()
        await self.manager.close()
        await self._until_closed.aclose()

    def _gateway(self, name: str, service: Service, settings: Settings) -> Gateway:
        policy = settings.gateway
        files = LocalGatewayFiles(policy)
        known = LocalGatewayFacts(settings, files, self._kernel, lambda: find_install(policy.executable))
        services = {n: (s.url, s.model.slot if s.model is not None else "") for n, s in settings.services.items()}

        def planner(*, network: bool) -> Generation:
            async def facts(catalog: Catalog) -> Facts:
                resident = {slot.name: slot.resident for slot in self._world.slots}
                return await known.collect(catalog, with_network=network, resident=resident)

            return Generation(files, lambda: find_install(policy.executable), lambda: services, facts)

        return Gateway(
            name,
            service.unit,
            service.url,
            policy,
            files,
            planner(network=False),
            planner(network=True),
            self._control_dir,
        )


def read(text: str) -> FileText:
    """Raises AgentdError for a file that is no YAML."""
    header = parse_header(text)
    return FileText(header.digest if header is not None else "", edited(text), read_section(parse(text, "the file")))


def scratch(policy: GatewayPolicy) -> ScratchProxies:
    return LocalScratchProxies(find_install(policy.executable))


async def aside(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
