"""The scrape: one registry of our own, fed from a view; a broken collector costs its own families and nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from agentd.metrics.collectors import COLLECTORS
from agentd.metrics.families import gauge
from agentd.metrics.view import MetricsView

log = logging.getLogger(__name__)


class Exposition:
    def __init__(self, view: Callable[[], MetricsView]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Agentd(view))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text in the format that the Accept header asks for."""
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self._registry)


class _Agentd(Collector):
    def __init__(self, view: Callable[[], MetricsView]) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        # Registering must not collect: there may be no snapshot yet.
        return ()

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        success: list[tuple[tuple[str, ...], float]] = []
        seconds: list[tuple[tuple[str, ...], float]] = []
        for name, collector in COLLECTORS.items():
            begun = time.perf_counter()
            try:
                families = list(collector(view))
            except Exception:
                log.exception("metrics.collector", extra={"data": {"collector": name}})
                families = []
                success.append(((name,), 0.0))
            else:
                success.append(((name,), 1.0))
            seconds.append(((name,), time.perf_counter() - begun))
            yield from families
        yield gauge("agentd_collector_success", "1 when a group of metrics could be made.", ("collector",), success)
        yield gauge("agentd_collector_duration_seconds", "How long that took.", ("collector",), seconds)
