"""The wiring of hardening: verification, installation, proof, and what the API sees of them, put together once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentd import paths, resources
from agentd.adapters.analyze import SystemdAnalyze
from agentd.adapters.canary_reports import CanaryReports
from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.adapters.inotify import Inotify
from agentd.adapters.inspector import LinuxInspector
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.unit_files import LocalUnitFiles
from agentd.core.schema import Model, Settings
from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.engine.steps import Steps
from agentd.engine.world import World
from agentd.errors import AgentdError, BusError
from agentd.managers.hardening.actions import ActionParts, HardeningActions
from agentd.managers.hardening.history import SetStore
from agentd.managers.hardening.install import Installer
from agentd.managers.hardening.look import Looker
from agentd.managers.hardening.manager import HardeningManager
from agentd.managers.hardening.prove import Prover
from agentd.managers.hardening.verify import Verifier
from agentd.managers.models.context import Ports
from agentd.managers.models.manager import ModelsManager
from agentd.ports import Job, Store
from agentd.surface_hardening import HardeningSurface
from agentd.types import Health, JobResult, Scope
from agentd.wire import SwitchRequest

START_SECONDS = 600.0
"""Longest restart of a service that is no model: systemd's own timeouts end it much earlier."""


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered, on the disk and in memory."""

    store: Store
    events: EventLog
    changes: ChangeBook
    world: World


class HardeningParts:
    """The manager for the loop, the actions for the life of the daemon, the surface for the API."""

    def __init__(
        self,
        ports: Ports,
        control: SystemdControl,
        history: History,
        scope: Scope,
        settings: Callable[[], Settings],
        reload: Callable[[], Awaitable[object]],
        models: ModelsManager,
        check_free: Callable[[str], None],
    ) -> None:
        """`reload` reads the configuration anew. `check_free` raises AgentdError for a unit that must not be stopped
        now."""
        self._check_free = check_free
        self._control = control
        self._history = history
        self._settings = settings
        self._models = models
        system = scope is Scope.SYSTEM
        unit_dir = str(paths.unit_dir(system=system))
        looker = Looker(control, control, LinuxInspector(), LocalUnitFiles())
        verifier = Verifier(looker, scope, unit_dir=unit_dir)
        self.manager = HardeningManager(
            verifier,
            Inotify(),
            history.events,
            history.world,
            ports.clock,
            resources.profile_texts,
            SystemdAnalyze(scope).exposure,
        )
        state = paths.state_dir(system=system)
        # Sets hold what users wrote.
        private = LocalFiles([state / "dropins"], journal=state / "dropins.json", mode=0o600)
        installer = Installer(
            control,
            ports.files,
            SetStore(private, str(state / "dropins")),
            history.events,
            ports.clock,
            unit_dir=unit_dir,
            journal=ports.journal,
            kernel=ports.kernel,
            query=control,
            restart=self._restart,
            guard=FileLock(state / "install.lock").hold,
        )
        prover = Prover(control, control, ports.journal, CanaryReports(str(paths.runtime_dir(system=system))))
        self.actions = HardeningActions(
            ActionParts(
                self.manager,
                installer,
                prover,
                verifier,
                Steps(history.store, history.changes, history.events, ports.clock),
                settings,
                str(paths.config_dir(system=system) / "config.d"),
                self._ready,
            )
        )
        self.surface = HardeningSurface(self.manager, self.actions, settings, reload, unit_dir)

    async def close(self) -> None:
        await self.actions.close()
        await self.manager.close()

    async def _restart(self, unit: str) -> None:
        """Until the job is done. A model is restarted by its slot, which alone starts and stops models. Raises
        AgentdError."""
        for name, service in self._settings().services.items():
            if service.unit == unit and service.model is not None:
                await self._restart_model(name, service.model)
                return
        self._check_free(unit)
        await _finished(await self._control.restart(unit), unit, START_SECONDS)

    async def _restart_model(self, name: str, model: Model) -> None:
        try:
            job = await self._models.restart(name)
        except AgentdError as error:
            if error.kind != "not-resident":
                raise
        else:
            await _finished(job, job.unit, model.start_timeout + model.ready_timeout)
            return
        # It came down under its new drop-ins; its slot brings it back.
        change, _ = self._models.switch(SwitchRequest(name, force=True, origin="recovery"))
        async for step in self._history.changes.follow(change.id):
            change = step
        if change.exit_code:
            raise AgentdError("job-failed", change.message)

    async def _ready(self, unit: str, timeout: float) -> None:
        """Raises AgentdError("not-ready")."""
        name = next((n for n, s in self._settings().services.items() if s.unit == unit), None)
        if name is None:
            return
        try:
            async with asyncio.timeout(timeout):
                with self._history.events.news.listen() as news:
                    if self._is_ready(name):
                        return
                    async for _ in news:
                        if self._is_ready(name):
                            return
        except TimeoutError:
            status = self._history.world.service(name)
            cause = status.cause if status is not None else "it is not supervised"
            raise AgentdError("not-ready", f"{name} is not ready after {timeout:g} s: {cause}") from None

    def _is_ready(self, name: str) -> bool:
        status = self._history.world.service(name)
        return status is not None and status.health in (Health.READY, Health.DEGRADED)


async def _finished(job: Job, unit: str, timeout: float) -> None:
    result = await job.wait(timeout)
    if result is JobResult.LOST:
        raise BusError("bus-down", f"cannot restart {unit}: the bus went away meanwhile")
    if result is not JobResult.DONE:
        raise AgentdError("job-failed", f"cannot restart {unit}: the job ended with {result.value}")
