"""What the API sees of the daemon: reads come from the last snapshot, actions go to the manager that owns them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from agentd.api.operations import BusStatus, Check, ConfigStatus, DaemonStatus, ModelStatus, ServiceVerb
from agentd.core.render import config_json
from agentd.core.schema import Settings
from agentd.core.settings import LoadedConfig
from agentd.core.use_profiles import why_off
from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.engine.loop import ReconcileLoop
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.findings import Finding
from agentd.gpu import GpuSnapshot
from agentd.managers.dropins import DropinsManager
from agentd.managers.gpu_fallback import FallbackManager
from agentd.managers.gpus import GpusManager
from agentd.managers.models.manager import ModelsManager
from agentd.managers.runtimes.manager import RuntimesManager, refuse_outside
from agentd.model_facts import ModelFacts, ModelNow
from agentd.ports import Store, UnitControl
from agentd.runtimes import RuntimeStatus
from agentd.surface_gateway import GatewaySurface
from agentd.surface_hardening import HardeningSurface
from agentd.surface_profile import ProfileSurface
from agentd.surface_redis import RedisSurface
from agentd.types import Change, Event, Health, JobResult, ServiceStatus, SlotStatus
from agentd.wire import LeaseRequest, SleepCheckRequest, SwitchPlan, SwitchRequest, UnloadRequest

ACTION_SECONDS = 120.0
DOWN = (Health.STOPPED, Health.FAILED)
FRESH_SECONDS = 2.0
"""Longest wait for a pass that has seen what an action did."""


@dataclass(slots=True)
class Parts:
    """The pieces that the daemon has wired."""

    control: UnitControl
    store: Store
    events: EventLog
    changes: ChangeBook
    world: World
    loop: ReconcileLoop
    models: ModelsManager
    dropins: DropinsManager
    runtimes: RuntimesManager
    hardening: HardeningSurface
    hardening_problems: Callable[[], Sequence[str]]
    """What keeps agentd from being ready, where the policy says so."""
    redis: RedisSurface
    gateway: GatewaySurface
    profiles: ProfileSurface
    gpus: GpusManager
    fallback: FallbackManager


def first_of(problems: Sequence[str]) -> str:
    """One line, however many there are."""
    more = f" (and {len(problems) - 1} more; see: agentctl config check)" if len(problems) > 1 else ""
    return f"{problems[0] if problems else 'failed'}{more}"


class Surface:
    """Implements api.operations.Operations. What concerns the process itself is handed in as functions."""

    def __init__(
        self,
        parts: Parts,
        *,
        daemon: Callable[[], DaemonStatus],
        config_status: Callable[[], ConfigStatus],
        bus_status: Callable[[], BusStatus],
        config: Callable[[], LoadedConfig],
        reload: Callable[[], Awaitable[ConfigStatus]],
        exposition: Callable[[str], tuple[str, bytes]],
    ) -> None:
        self._parts = parts
        self.hardening = parts.hardening
        self.redis = parts.redis
        self.gateway = parts.gateway
        self.profiles = parts.profiles
        self.daemon = daemon
        self.config_status = config_status
        self.bus_status = bus_status
        self._loaded = config
        self._reload = reload
        self._exposition = exposition

    def _settings(self) -> Settings:
        return self._loaded().settings

    # -- reads ------------------------------------------------------------------------------------------------

    def live(self) -> Sequence[Check]:
        return (Check("loop", True),)

    def ready(self) -> Sequence[Check]:
        config, bus, loop = self.config_status(), self.bus_status(), self._parts.loop
        errors = "; ".join(f"{name}: {text}" for name, text in loop.errors.items())
        unhardened = "; ".join(self._parts.hardening_problems())
        endangered = "; ".join(self.redis.problems())
        exposed = "; ".join(self.gateway.problems())
        return (
            Check("config", config.valid, "" if config.valid else first_of(config.problems)),
            Check("bus", bus.connected, bus.error),
            Check("first-pass", loop.first_pass.is_set(), "" if loop.first_pass.is_set() else "not done yet"),
            Check("managers", not errors, errors),
            Check("hardening", not unhardened, unhardened),
            Check("stores", not endangered, endangered),
            Check("gateway", not exposed, exposed),
        )

    def ages(self) -> Mapping[str, float]:
        return self._parts.world.ages()

    def services(self) -> Sequence[ServiceStatus]:
        return self._parts.world.services

    def slots(self) -> Sequence[SlotStatus]:
        return self._parts.world.slots

    def runtimes(self) -> Sequence[RuntimeStatus]:
        return self._parts.world.runtimes

    def gpus(self) -> GpuSnapshot:
        return self._parts.world.gpus

    def gpu_findings(self) -> Sequence[Finding]:
        parts = self._parts
        return (*parts.fallback.findings(), *parts.gpus.findings(), *parts.runtimes.findings())

    def models(self) -> Sequence[ModelStatus]:
        found = []
        known = {model.name: model for model in self._parts.models.now()}
        for name, service in self._settings().services.items():
            spec = service.model
            if spec is None:
                continue
            status, slot = self._parts.world.service(name), self._parts.world.slot(spec.slot)
            now = known.get(name) or ModelNow(name, spec.slot, "stopped")
            found.append(
                ModelStatus(
                    name=name,
                    slot=spec.slot,
                    unit=service.unit,
                    served_name=spec.served_name,
                    url=service.url,
                    active=slot is not None and slot.resident == name,
                    health=status.health if status is not None else Health.UNKNOWN,
                    vram=spec.vram,
                    cooldown_until=slot.cooldowns.get(name) if slot is not None else None,
                    state=now.state,
                    level=now.level,
                    learned_vram=now.facts.vram,
                    load_seconds=now.facts.load_seconds,
                    wake_seconds=now.wake_seconds,
                    off=now.off,
                )
            )
        return found

    def facts_of(self, model: str) -> ModelFacts:
        return next((now.facts for now in self._parts.models.now() if now.name == model), ModelFacts(model))

    def findings(self) -> Sequence[Finding]:
        ours = (self.hardening, self.redis, self.gateway)
        theirs = (finding for part in ours for finding in part.findings())
        return (*self.gpu_findings(), *self._parts.dropins.findings(), *theirs)

    def config(self) -> Mapping[str, object]:
        return config_json(self._loaded())

    def metrics(self, accept: str) -> tuple[str, bytes]:
        return self._exposition(accept)

    async def change(self, change_id: str) -> Change | None:
        try:
            return self._parts.changes.find(change_id)
        except AgentdError:
            return await self._parts.store.change(change_id)

    async def changes(self, limit: int) -> Sequence[Change]:
        return self._parts.changes.recent(limit)

    async def follow_change(self, change_id: str) -> AsyncGenerator[Change, None]:
        async with aclosing(self._parts.changes.follow(change_id)) as steps:
            async for change in steps:
                yield change

    def events(self, limit: int, after: int = 0) -> Sequence[Event]:
        return self._parts.events.recent(limit, after)

    async def follow_events(self) -> AsyncGenerator[Event, None]:
        with self._parts.events.news.listen() as news:
            async for event in news:
                yield event

    # -- actions ----------------------------------------------------------------------------------------------

    async def switch(self, request: SwitchRequest) -> tuple[Change, bool]:
        return self._parts.models.switch(request)

    async def plan(self, request: SwitchRequest) -> SwitchPlan:
        return await self._parts.models.plan(request)

    async def unload(self, request: UnloadRequest) -> tuple[Change, bool]:
        return self._parts.models.unload(request)

    async def sleep_check(self, request: SleepCheckRequest) -> tuple[Change, bool]:
        return self._parts.models.sleep_check(request)

    async def lease(self, request: LeaseRequest) -> tuple[Change, bool]:
        return self._parts.models.lease(request)

    async def end_lease(self, slot: str) -> Change | None:
        return self._parts.models.end_lease(slot)

    async def cancel(self, change_id: str) -> Change:
        return self._parts.models.cancel(change_id)

    async def reload(self) -> ConfigStatus:
        return await self._reload()

    async def service_action(self, name: str, verb: ServiceVerb) -> ServiceStatus:
        service = self._settings().services.get(name)
        if service is None:
            known = ", ".join(self._settings().services) or "none is configured"
            raise AgentdError("service-not-found", f"there is no service {name!r}; services: {known}")
        off = why_off(name, service, self._loaded().profile)
        if off and verb != "stop":
            raise AgentdError("service-off", f"cannot {verb} it: {off}", hint="see: agentctl profile list")
        if service.model is not None:
            await self._model_action(name, verb)
        else:
            refuse_outside(name, service, verb)
            await self._unit_action(service.unit, verb)
        await self._parts.loop.fresh(FRESH_SECONDS)
        status = self._parts.world.service(name)
        if status is None:
            raise AgentdError("service-not-found", f"{name} is not supervised yet")
        return status

    async def _unit_action(self, unit: str, verb: ServiceVerb) -> None:
        control = self._parts.control
        if verb != "start":
            self.redis.check_free(unit)
            self.gateway.check_free(unit)
        if verb == "start":
            job = await control.start(unit)
        elif verb == "stop":
            job = await control.stop(unit)
        else:
            job = await control.restart(unit)
        result = await job.wait(ACTION_SECONDS)
        if result is not JobResult.DONE:
            raise AgentdError("job-failed", f"cannot {verb} {unit}: the job ended with {result.value}")

    async def _model_action(self, name: str, verb: ServiceVerb) -> None:
        """A model is started and stopped by its slot only, so that two are never up."""
        if verb == "restart":
            await self._parts.models.restart(name)
            return
        if verb == "start":
            change, _ = self._parts.models.switch(SwitchRequest(name))
        else:
            try:
                change = self._parts.models.stop(name)
            except AgentdError as error:
                status = self._parts.world.service(name)
                if error.kind == "not-resident" and status is not None and status.health in DOWN:
                    return  # Already so.
                raise
        last = change
        # Every phase of a change has its deadline; the news end early only when agentd stops.
        async for step in self.follow_change(change.id):
            last = step
        if last.finished is None:
            hint = f"follow it with: agentctl switch status {change.id}"
            raise AgentdError("stopping", f"agentd stops before {change.kind} {change.id} has ended", hint=hint)
        if last.exit_code:
            raise AgentdError("change-failed", last.message)
