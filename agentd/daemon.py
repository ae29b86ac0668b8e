"""All wiring in one visible place: adapters, managers, API, signals, reload, and the order of start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable

from agentd import __version__, logs, paths
from agentd.adapters.clock import SystemClock
from agentd.adapters.files import LocalFiles
from agentd.adapters.gpus import GpuReader
from agentd.adapters.journal import JournalctlReader
from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.notify import SystemdNotifier, listen_sockets
from agentd.adapters.probe import NetworkProber
from agentd.adapters.store import SqliteStore
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.weights import WeightFiles
from agentd.api.operations import BusStatus, DaemonStatus
from agentd.api.server import ApiServer
from agentd.core.settings import LoadedConfig
from agentd.core.status_line import status_line
from agentd.door import Door
from agentd.engine.changes import ChangeBook
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.loop import ReconcileLoop
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.gateway_parts import GatewayParts
from agentd.hardening import HardeningParts, History
from agentd.managers.dropins import DropinsManager
from agentd.managers.gpu_fallback import FallbackManager
from agentd.managers.gpus import GpusManager
from agentd.managers.models.context import Ports
from agentd.managers.models.manager import ModelsManager
from agentd.managers.runtimes.manager import RuntimesManager
from agentd.managers.units.manager import UnitsManager
from agentd.managers.units.watch import UnitPorts
from agentd.profile_parts import ProfileParts
from agentd.redis_parts import RedisParts
from agentd.reload import IN_PART, Reloader, tell
from agentd.surface import FRESH_SECONDS, Parts, Surface
from agentd.telemetry import Telemetry
from agentd.types import Change, Scope

log = logging.getLogger(__name__)

Load = Callable[[], LoadedConfig]

BUS_PATIENCE = 40.0
"""Seconds that a start waits for the bus: less than the unit's TimeoutStartSec=, and so long that waiting for it again
and again does not hit the unit's start limit."""


class Daemon:
    """`run()` until SIGTERM or SIGINT. `load` reads the configuration anew; it raises ConfigError. A `log_level` from
    the command line wins over the configuration's."""

    def __init__(self, config: LoadedConfig, load: Load, log_level: str = "", config_dir: str | None = None) -> None:
        self._log_level = log_level
        settings = config.settings
        system = settings.daemon.scope == "system"
        self._scope = Scope(settings.daemon.scope)
        self._started = time.time()
        self._stop = asyncio.Event()
        self._died = ""
        self._open = False
        self._status = ""
        self.notifier = SystemdNotifier()
        self.sockets: list[socket.socket] = [s for group in listen_sockets().values() for s in group]
        self._socket_path = os.environ.get("AGENTD_SOCKET") or str(paths.socket_path(system=system))

        unit_dir = paths.unit_dir(system=system)
        clock, kernel, prober = SystemClock(), LinuxKernel(), NetworkProber()
        self.control = SystemdControl(self._scope, call_timeout=settings.daemon.bus_timeout)
        self.store = SqliteStore(paths.journal_file(system=system), event_history=settings.daemon.event_history)
        roots = [unit_dir, paths.config_dir(system=system)]
        files = LocalFiles(roots, journal=paths.state_dir(system=system) / "files.json")
        self.prober, self.gpus = prober, GpuReader("auto")
        journal = JournalctlReader(self._scope)
        self.events = EventLog(self.store, clock)
        self.reloader = Reloader(config, load, self._apply, self._reload_ended, self.notifier, self.events)
        self.changes = ChangeBook(self.store)
        self.world = World(clock)
        ports = Ports(self.control, kernel, self.gpus, prober, journal, files, clock, WeightFiles())
        counters = Counters()
        self.models = ModelsManager(ports, self.store, self.events, self.changes, self.world, counters)
        self.redis = RedisParts(self._scope, kernel, clock, self.store, self.changes, self.events, self.world)
        self.gateway = GatewayParts(self._scope, ports, self.store, self.changes, self.events, self.world)
        self.runtimes = RuntimesManager(prober, kernel, clock, self.events, self.world, counters)
        self.units = UnitsManager(
            UnitPorts(self.control, kernel, prober, journal, clock, self.gateway.manager.check_ready),
            self.events,
            self.world,
            on_wake=lambda: self.loop.wake(),
            revive=self.models.revive,
            restart_model=self.models.restart,
            check_free=self._check_free,
        )
        self.dropins = DropinsManager(
            self.control, files, self.events, unit_dir=str(unit_dir), agentctl=str(paths.agentctl())
        )
        history = History(self.store, self.events, self.changes, self.world)
        self.hardening = HardeningParts(
            ports, self.control, history, self._scope, self.reloader.settings, self.reloader.reload, self.models,
            self._check_free,
        )  # fmt: skip
        self.profiles = ProfileParts(
            self._scope, config_dir, ports, history, self.models, self.hardening.actions,
            lambda: self.reloader.config, self.reloader.reload, self._check_free, self.dropins.findings,
        )  # fmt: skip
        self.gpu_memory = GpusManager(
            self.gpus, kernel, self.world, clock, self.events, counters, self.reloader.settings
        )
        self.fallback = FallbackManager(
            self.gpus, self.world, self.events, self.reloader.lock, self.reloader.settings,
            lambda settings: tell((self.dropins, self.models), settings),
        )  # fmt: skip
        self._others = (self.hardening.manager, self.redis.manager, self.gateway.manager)
        managers = (self.dropins, self.units, self.models, self.runtimes, self.gpu_memory, self.fallback)
        self.loop = ReconcileLoop((*managers, *self._others), self.notifier, period=settings.daemon.resync)
        self.control.on_change(self._unit_changed)
        self.loop.on_pass.append(self._tell_status)
        self.telemetry = Telemetry(
            self.world,
            self.changes,
            kernel,
            self.hardening.manager,
            started=self._started,
            ready=lambda: all(check.ok for check in self.surface.ready()),
            config=self.reloader.status, bus=self._bus_status, stores=self.redis.manager.statuses,
            gateway=self.gateway.manager.status, counters=counters, models=self.models.now,
        )  # fmt: skip
        self.changes.on_end += [self.telemetry.record, self._change_ended]
        parts = Parts(
            self.control, self.store, self.events, self.changes, self.world, self.loop, self.models, self.dropins,
            self.runtimes, self.hardening.surface, self.hardening.manager.problems, self.redis.surface,
            self.gateway.surface, self.profiles.surface, self.gpu_memory, self.fallback,
        )  # fmt: skip
        self.surface = Surface(
            parts, daemon=self._daemon_status, config_status=self.reloader.status, bus_status=self._bus_status,
            config=lambda: self.reloader.config, reload=self.reloader.reload, exposition=self.telemetry.exposition,
        )  # fmt: skip
        self.api = ApiServer(self.surface)
        self.door = Door(self.api, self.sockets, self.reloader.settings)
        self.loop.add(self.door)

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises AgentdError when it cannot start, or cannot go on."""
        tasks: list[asyncio.Task[None]] = []
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reloader.hangup)
            await self._start_unless_stopped(tasks)
            await self._stop.wait()
        finally:
            self.notifier.stopping()
            await self._shut_down(tasks)
        if self._died:
            raise AgentdError("internal", f"agentd cannot go on: {self._died}")

    async def _start_unless_stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        """A start may wait for the bus or for a model that is looked at; nobody waits for it who wants us to stop."""
        async with self.reloader.lock:
            starting, stop = asyncio.ensure_future(self._start(tasks)), asyncio.ensure_future(self._stop.wait())
            await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting

    async def _start(self, tasks: list[asyncio.Task[None]]) -> None:
        self._say("opening the journal")
        await self._open_journal()
        self._say("connecting to systemd")
        await self.control.start_up(BUS_PATIENCE)
        if not self.control.connected:
            raise AgentdError("bus-down", f"cannot reach systemd: {self.control.problem}")
        settings = await self.fallback.fit(self.reloader.settings())
        self._say("looking at the units")
        await self.dropins.apply(settings)
        await self.units.apply(settings)
        await self.models.start(settings)
        await self.runtimes.apply(settings)
        await self.hardening.manager.apply(settings)
        await self.redis.start(settings)
        await self.gateway.start(settings)
        await self.loop.once()
        await self.profiles.actions.recover()
        await self.api.start(unix=self._socket_path, sockets=self.sockets)
        shut = await self.door.start()
        if shut:
            self.loop.failed(self.door.name, shut)
        works = (self.loop.run(), self.loop.heartbeat(), self.events.run(), self.telemetry.sample_lag())
        others = (self.gpu_memory.run(), self.hardening.actions.start())
        tasks += [asyncio.ensure_future(work) for work in (*works, *others)]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        self.events.emit("daemon.started", "agentd", f"agentd {__version__} is ready")
        self.notifier.ready()
        self._tell_status()

    async def _open_journal(self) -> None:
        await self.store.open()
        self._open = True
        await self.events.load()
        await self.changes.load()
        if self.store.recovered_from:
            text = f"the journal was damaged and a new one is begun; the old one is kept as {self.store.recovered_from}"
            self.events.emit("journal.damaged", "agentd", text, kept=self.store.recovered_from)

    async def _shut_down(self, tasks: list[asyncio.Task[None]]) -> None:
        self.door.close()
        await self.api.stop()
        self.changes.news.close()
        self.events.news.close()
        self.reloader.close()
        for task in tasks:
            task.cancel()
        for part in (self.profiles, self.gateway, self.redis, self.hardening, self.models, self.units, self.runtimes):
            await part.close()
        if self._open:
            self.events.emit("daemon.stopped", "agentd", "agentd stops")
            await self.events.flush()
        for adapter in (self.control, self.prober, self.gpus, self.store):
            await adapter.close()
        self.notifier.close()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """These run for ever; when one does not, we end as failed, so that systemd starts us anew."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("daemon.task-died", exc_info=task.exception())
            self._died = f"internal error ({type(task.exception()).__name__})"
            self._stop.set()

    # -- news -------------------------------------------------------------------------------------------------

    def _unit_changed(self, unit: str | None) -> None:
        if unit is None:
            self.dropins.units_changed()
        for manager in (*self._others, self.models, self.units):
            manager.unit_changed(unit)

    def _check_free(self, unit: str) -> None:
        """Raises ConflictError while a change is at work on it."""
        self.redis.surface.check_free(unit)
        self.gateway.surface.check_free(unit)

    def _change_ended(self, change: Change) -> None:
        if change.target is not None and change.exit_code == 0:
            self.units.hurry(change.target)
        self.gpu_memory.expire()
        self.loop.wake()

    def _say(self, text: str) -> None:
        if text != self._status:
            self._status = text
            self.notifier.status(text)

    def _tell_status(self) -> None:
        self._say(status_line(self.world.slots, self.world.services, config_invalid=bool(self.reloader.problems)))

    # -- configuration ----------------------------------------------------------------------------------------

    async def _apply(self, config: LoadedConfig) -> None:
        """First what can be refused, then what is told to every manager even when one of them fails."""
        settings = await self.fallback.fit(config.settings)
        if settings.daemon.scope != self._scope.value:
            raise AgentdError("restart-needed", "cannot change daemon.scope while running; restart agentd")
        await self.door.open(settings)
        self.reloader.accept(config)
        logs.set_level(self._log_level or settings.daemon.log_level)
        self.loop.period = settings.daemon.resync
        failed = await tell((self.dropins, self.models, self.units, self.runtimes, *self._others), settings)
        await self.loop.fresh(FRESH_SECONDS)  # Who asks next shall see what is new.
        if failed:
            raise AgentdError(IN_PART, f"the configuration is applied in part: {failed}")

    def _reload_ended(self) -> None:
        self._tell_status()
        self.loop.wake()

    # -- what the API asks of the process ---------------------------------------------------------------------

    def _daemon_status(self) -> DaemonStatus:
        return DaemonStatus(__version__, os.getpid(), self._scope, self._started, self._status)

    def _bus_status(self) -> BusStatus:
        return BusStatus(self.control.connected, self.control.reconnects, self.control.problem)
