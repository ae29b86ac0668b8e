"""All that the collectors may know: one immutable value, made from the last snapshot. No scrape reaches beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.findings import Finding
from agentd.gateway import GatewayStatus
from agentd.gpu import GpuSnapshot
from agentd.model_facts import ModelNow
from agentd.runtimes import RuntimeStatus
from agentd.stores import StoreStatus
from agentd.types import Change, ServiceStatus, SlotStatus


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram at one moment: `counts` has one entry per upper bound and one more for everything above."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class ChangeTotals:
    """What finished changes have come to since the start; see recorder.ChangeRecorder."""

    switches: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """(from, to, result) -> count; "none" stands for an empty slot."""
    durations: Mapping[tuple[str, str, str], Distribution] = field(default_factory=dict)
    """(from, to, way) -> seconds of the switches that were not refused; "unknown" where it came to no way."""
    phases: Mapping[tuple[str, str], Distribution] = field(default_factory=dict)
    """(phase, to) -> seconds."""
    changes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(kind, outcome) -> count."""
    last_finished: Mapping[str, float] = field(default_factory=dict)
    """Kind -> wall-clock second."""


@dataclass(frozen=True, slots=True)
class HardeningView:
    """A verified unit; see managers.hardening.verify.UnitReport."""

    unit: str
    findings: tuple[Finding, ...] = ()
    running: bool = False
    at: float = 0.0
    cpu_seconds: float = 0.0
    score: float = 0.0
    systemd_score: float | None = None


@dataclass(frozen=True, slots=True)
class MetricsView:
    version: str
    started: float
    ready: bool
    services: tuple[ServiceStatus, ...] = ()
    slots: tuple[SlotStatus, ...] = ()
    gpus: GpuSnapshot = field(default_factory=GpuSnapshot)
    gpu_owners: Mapping[tuple[int, str], int] = field(default_factory=dict)
    """(GPU index, unit or "foreign") -> bytes; the pids stay behind."""
    running: tuple[Change, ...] = ()
    totals: ChangeTotals = field(default_factory=ChangeTotals)
    config_valid: bool = True
    config_loaded: float = 0.0
    bus_connected: bool = False
    bus_reconnects: int = 0
    ages: Mapping[str, float] = field(default_factory=dict)
    """Source -> seconds since it was last read."""
    loop_lag: Distribution | None = None
    hardening: tuple[HardeningView, ...] = ()
    host_findings: tuple[Finding, ...] = ()
    stores: tuple[StoreStatus, ...] = ()
    gateway: GatewayStatus | None = None
    models: tuple[ModelNow, ...] = ()
    counts: Mapping[tuple[str, tuple[str, ...]], int] = field(default_factory=dict)
    """engine.Counters: (family, labels) -> count."""
    runtimes: tuple[RuntimeStatus, ...] = ()
    now: float = 0.0
    """Wall-clock second of the view, for the age of what carries a time; 0: not known."""
