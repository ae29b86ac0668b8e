"""What /metrics shows: counters that grow as changes end, the loop's lag, and a view made of the last snapshot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from agentd import __version__
from agentd.api.operations import BusStatus, ConfigStatus
from agentd.engine.changes import ChangeBook
from agentd.engine.counters import Counters
from agentd.engine.world import World
from agentd.gateway import GatewayStatus
from agentd.managers.hardening.manager import HardeningManager
from agentd.managers.hardening.verify import UnitReport
from agentd.metrics.recorder import ChangeRecorder, lag_histogram
from agentd.metrics.view import HardeningView, MetricsView
from agentd.model_facts import ModelNow
from agentd.ports import Kernel
from agentd.stores import StoreStatus
from agentd.types import Change

LAG_PERIOD = 5.0
"""Seconds between two samples of the loop's lag; each costs a wake-up of an otherwise idle process."""


class Telemetry:
    """prometheus_client is imported at the first scrape: the start does not need its 80 ms."""

    def __init__(
        self,
        world: World,
        changes: ChangeBook,
        kernel: Kernel,
        hardening: HardeningManager,
        *,
        started: float,
        ready: Callable[[], bool],
        config: Callable[[], ConfigStatus],
        bus: Callable[[], BusStatus],
        stores: Callable[[], Sequence[StoreStatus]],
        gateway: Callable[[], GatewayStatus | None],
        counters: Counters,
        models: Callable[[], tuple[ModelNow, ...]],
    ) -> None:
        self._world = world
        self._changes = changes
        self._kernel = kernel
        self._hardening = hardening
        self._started = started
        self._ready = ready
        self._config = config
        self._bus = bus
        self._stores = stores
        self._gateway = gateway
        self._counters = counters
        self._models = models
        self._recorder = ChangeRecorder()
        self._lag = lag_histogram()
        self._render: Callable[[str], tuple[str, bytes]] | None = None

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Content type and text for an Accept header."""
        if self._render is None:
            from agentd.metrics.exposition import Exposition

            self._render = Exposition(self.view).render
        return self._render(accept)

    def record(self, change: Change) -> None:
        self._recorder.record(change)

    async def sample_lag(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD
            await asyncio.sleep(LAG_PERIOD)
            self._lag.observe(loop.time() - due)

    def view(self) -> MetricsView:
        config, bus = self._config(), self._bus()
        return MetricsView(
            version=__version__,
            started=self._started,
            ready=self._ready(),
            services=self._world.services,
            slots=self._world.slots,
            gpus=self._world.gpus,
            gpu_owners=self._world.gpu_owners,
            hardening=tuple(_unit(report) for report in self._hardening.reports()),
            host_findings=self._hardening.host_findings(),
            stores=tuple(self._stores()),
            gateway=self._gateway(),
            models=self._models(),
            counts=self._counters.snapshot(),
            runtimes=self._world.runtimes,
            now=time.time(),
            running=tuple(c for c in self._changes.recent(20) if c.finished is None),
            totals=self._recorder.totals(),
            config_valid=config.valid,
            config_loaded=config.loaded,
            bus_connected=bus.connected,
            bus_reconnects=bus.reconnects,
            ages=self._world.ages(),
            loop_lag=self._lag.snapshot(),
        )


def _unit(report: UnitReport) -> HardeningView:
    return HardeningView(
        report.unit,
        report.findings,
        report.running,
        report.at,
        report.cpu_seconds,
        report.score,
        report.systemd_score,
    )
