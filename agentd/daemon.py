"""All wiring in one visible place: adapters, managers, API, signals, reload, and the order of start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
from agentd.api.operations import BusStatus, ConfigStatus, DaemonStatus
from agentd.api.server import ApiServer
from agentd.core.settings import LoadedConfig
from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.engine.loop import ReconcileLoop
from agentd.engine.world import World
from agentd.errors import AgentdError, ConfigError
from agentd.managers.dropins import DropinsManager
from agentd.managers.gpus import GpusManager
from agentd.managers.models.context import Ports
from agentd.managers.models.manager import ModelsManager
from agentd.managers.units.manager import UnitsManager
from agentd.managers.units.watch import UnitPorts
from agentd.surface import Parts, Surface
from agentd.telemetry import Telemetry
from agentd.types import Change, Scope

log = logging.getLogger(__name__)

Load = Callable[[], LoadedConfig]


class Daemon:
    """`run()` until SIGTERM or SIGINT. `load` reads the configuration anew; it raises ConfigError."""

    def __init__(self, config: LoadedConfig, load: Load) -> None:
        self._config = config
        self._load = load
        settings = config.settings
        system = settings.daemon.scope == "system"
        self._scope = Scope(settings.daemon.scope)
        self._started = self._loaded = self._attempted = time.time()
        self._problems: tuple[str, ...] = ()
        self._stop = asyncio.Event()
        self._status = ""
        self.notifier = SystemdNotifier()
        self.sockets: list[socket.socket] = [s for group in listen_sockets().values() for s in group]
        self._socket_path = os.environ.get("AGENTD_SOCKET") or str(paths.socket_path(system=system))

        unit_dir = paths.unit_dir(system=system)
        clock, kernel, prober = SystemClock(), LinuxKernel(), NetworkProber()
        self.control = SystemdControl(self._scope, call_timeout=settings.daemon.bus_timeout)
        self.store = SqliteStore(paths.journal_file(system=system), event_history=settings.daemon.event_history)
        self.prober, self.gpus, files = prober, GpuReader("auto"), LocalFiles([unit_dir])
        journal = JournalctlReader(self._scope)
        self.events = EventLog(self.store, clock)
        self.changes = ChangeBook(self.store)
        self.world = World(clock)
        ports = Ports(self.control, kernel, self.gpus, prober, journal, files, clock)
        self.models = ModelsManager(ports, self.store, self.events, self.changes, self.world)
        self.units = UnitsManager(
            UnitPorts(self.control, kernel, prober, journal, clock),
            self.events,
            self.world,
            on_wake=lambda: self.loop.wake(),
            revive=self.models.revive,
        )
        self.dropins = DropinsManager(self.control, files, self.events, unit_dir=str(unit_dir), agentctl=_agentctl())
        self.gpu_memory = GpusManager(self.gpus, kernel, self.world, clock)
        self.loop = ReconcileLoop(
            (self.dropins, self.units, self.models, self.gpu_memory),
            self.notifier,
            period=settings.daemon.resync,
        )
        self.control.on_change(self._unit_changed)
        self.loop.on_pass.append(self._tell_status)
        self.telemetry = Telemetry(
            self.world,
            self.changes,
            kernel,
            started=self._started,
            ready=lambda: all(check.ok for check in self.surface.ready()),
            config=self._config_status,
            bus=self._bus_status,
        )
        self.changes.on_end += [self.telemetry.record, self._change_ended]
        parts = Parts(
            self.control, self.store, self.events, self.changes, self.world, self.loop, self.models, self.dropins
        )
        self.surface = Surface(
            parts,
            daemon=self._daemon_status,
            config_status=self._config_status,
            bus_status=self._bus_status,
            config=lambda: self._config,
            reload=self.reload,
            exposition=self.telemetry.exposition,
        )
        self.api = ApiServer(self.surface)

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises AgentdError when it cannot start."""
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._start(tasks)
            await self._stop.wait()
        finally:
            self.notifier.stopping()
            await self._shut_down(tasks)

    async def _start(self, tasks: list[asyncio.Task[None]]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._say("opening the journal")
        await self.store.open()
        await self.events.load()
        await self.changes.load()
        self._say("connecting to systemd")
        await self.control.start_up()
        settings = self._config.settings
        self._say("looking at the units")
        await self.dropins.apply(settings)
        await self.units.apply(settings)
        await self.models.start(settings)
        await self.loop.once()
        await self.api.start(unix=self._socket_path, listen=settings.daemon.listen, sockets=self.sockets)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        works = (self.loop.run(), self.events.run(), self.telemetry.sample_lag())
        tasks += [asyncio.ensure_future(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        self.events.emit("daemon.started", "agentd", f"agentd {__version__} is ready")
        self.notifier.ready()
        self._tell_status()

    async def _shut_down(self, tasks: list[asyncio.Task[None]]) -> None:
        await self.api.stop()
        self.changes.news.close()
        self.events.news.close()
        for task in tasks:
            task.cancel()
        await self.models.close()
        await self.units.close()
        self.events.emit("daemon.stopped", "agentd", "agentd stops")
        await self.events.flush()
        await self.control.close()
        await self.prober.close()
        await self.gpus.close()
        await self.store.close()
        self.notifier.close()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """The loop and the event writer run for ever; when one does not, systemd shall start us anew."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("daemon.task-died", exc_info=task.exception())
            self._stop.set()

    # -- news -------------------------------------------------------------------------------------------------

    def _unit_changed(self, unit: str | None) -> None:
        if unit is None:
            self.dropins.units_changed()
        self.models.unit_changed(unit)
        self.units.unit_changed(unit)

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
        parts = [f"{s.name}: {s.resident or s.state}" for s in self.world.slots]
        bad = [s.name for s in self.world.services if s.health.value in ("failed", "unready", "missing")]
        text = "; ".join(parts) or "no slot configured"
        if bad:
            text += f"; not ready: {', '.join(bad)}"
        if self._problems:
            text += "; the configuration on disk is invalid, the previous one is in force"
        self._say(text)

    # -- configuration ----------------------------------------------------------------------------------------

    def _on_hangup(self) -> None:
        task = asyncio.ensure_future(self._reload_quietly())
        task.add_done_callback(lambda t: t.exception())

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except AgentdError as error:
            log.warning("config.reload-failed", extra={"data": {"error": error.message}})

    async def reload(self) -> ConfigStatus:
        """Apply the configuration on disk; an invalid one changes nothing and is told everywhere."""
        self.notifier.reloading()
        self._attempted = time.time()
        try:
            config = await asyncio.to_thread(self._load)
            await self._apply(config)
        except ConfigError as error:
            self._problems = tuple(str(p) for p in error.problems)
            self.events.emit("config.invalid", "agentd", f"the configuration is not applied: {error.message}")
            raise
        finally:
            self.notifier.ready()
            self._tell_status()
        self._problems, self._loaded = (), self._attempted
        self.events.emit("config.applied", "agentd", f"configuration applied from {', '.join(config.files)}")
        self.loop.wake()
        return self._config_status()

    async def _apply(self, config: LoadedConfig) -> None:
        settings = config.settings
        if settings.daemon.scope != self._config.settings.daemon.scope:
            raise AgentdError("restart-needed", "cannot change daemon.scope while running; restart agentd")
        logs.set_level(settings.daemon.log_level)
        if not self.sockets:
            await self.api.listen(settings.daemon.listen)
        self._config = config
        await self.dropins.apply(settings)
        await self.models.apply(settings)
        await self.units.apply(settings)

    # -- what the API asks of the process ---------------------------------------------------------------------

    def _daemon_status(self) -> DaemonStatus:
        return DaemonStatus(__version__, os.getpid(), self._scope, self._started, self._status)

    def _config_status(self) -> ConfigStatus:
        return ConfigStatus(not self._problems, self._loaded, self._attempted, self._config.files, self._problems)

    def _bus_status(self) -> BusStatus:
        return BusStatus(self.control.connected, self.control.reconnects, self.control.problem)


def _agentctl() -> str:
    """The absolute path that drop-ins call: where the units look first, else beside the program that runs."""
    usual = paths.home() / ".local/bin/agentctl"
    for candidate in (usual, Path(os.path.abspath(sys.argv[0])).with_name("agentctl"), Path("/usr/bin/agentctl")):  # noqa: PTH100
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return str(usual)
