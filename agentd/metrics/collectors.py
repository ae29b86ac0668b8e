"""The families, grouped by subject; each function reads nothing but the view. Never a pid in a label."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import Metric

from agentd.metrics.counted import counted
from agentd.metrics.families import counter, gauge, histogram, one_hot
from agentd.metrics.gateway import gateway
from agentd.metrics.gpus import gpus
from agentd.metrics.hardening import hardening
from agentd.metrics.models import models
from agentd.metrics.redis import redis
from agentd.metrics.runtimes import runtimes
from agentd.metrics.view import MetricsView
from agentd.types import ActiveState, Health

STATES = tuple(state.value for state in ActiveState)
HEALTHS = tuple(health.value for health in Health)


def services(view: MetricsView) -> Iterable[Metric]:
    all_ = view.services
    states = [s for v in all_ for s in one_hot((v.unit,), STATES, v.active_state.value)]
    yield gauge(
        "agentd_unit_state", "ActiveState of a supervised unit; 1 for the current one.", ("unit", "state"), states
    )
    healths = [s for v in all_ for s in one_hot((v.name,), HEALTHS, v.health.value)]
    yield gauge("agentd_service_health", "Health of a service; 1 for the current one.", ("service", "health"), healths)
    info = [((v.name, v.unit, v.role.value), 1.0) for v in all_]
    yield gauge("agentd_service_info", "Services and their units.", ("service", "unit", "role"), info)
    ready = [((v.name,), float(v.health is Health.READY)) for v in all_]
    yield gauge("agentd_service_ready", "1 while the service and what it depends on are ready.", ("service",), ready)
    restarts = [((v.name,), float(v.restarts)) for v in all_]
    yield counter("agentd_service_restarts", "Restarts by systemd since the unit was started.", ("service",), restarts)
    loops = [((v.name,), float(v.crash_loop)) for v in all_]
    yield gauge("agentd_service_crash_loop", "1 while the service restarts too often.", ("service",), loops)


def probes(view: MetricsView) -> Iterable[Metric]:
    labels = ("service", "probe")
    found = [((v.name, p.kind.value), p) for v in view.services for p in v.probes]
    known = [(key, float(p.passing)) for key, p in found if p.passing is not None]
    yield gauge("agentd_probe_success", "Verdict of a probe; absent until it is known.", labels, known)
    asked = [(key, p) for key, p in found if p.last_time]
    seconds = [(key, p.last_seconds) for key, p in asked]
    yield gauge("agentd_probe_duration_seconds", "How long the last answer took.", labels, seconds)
    times = [(key, p.last_time) for key, p in asked]
    yield gauge("agentd_probe_last_timestamp_seconds", "When the probe last had an answer.", labels, times)
    failures = [(key, float(p.failures)) for key, p in found]
    yield gauge("agentd_probe_consecutive_failures", "Failures since the last success.", labels, failures)


def slots(view: MetricsView) -> Iterable[Metric]:
    active = [((s.name, m), float(m == s.resident)) for s in view.slots for m in s.models]
    yield gauge("agentd_model_active", "1 for the model that is resident in its slot.", ("slot", "model"), active)
    leased = [((s.name,), float(s.lease_until is not None)) for s in view.slots]
    yield gauge("agentd_slot_leased", "1 while the slot is lent out.", ("slot",), leased)
    degraded = [((s.name,), float(s.state == "degraded")) for s in view.slots]
    yield gauge("agentd_slot_degraded", "1 while the slot holds no model because a switch failed.", ("slot",), degraded)
    wedged = [((s.name,), float(s.state == "wedged")) for s in view.slots]
    yield gauge("agentd_slot_wedged", "1 while the slot's GPU memory never became free.", ("slot",), wedged)
    busy = {change.slot for change in view.running if change.kind == "switch"}
    running = [((s.name,), float(s.name in busy)) for s in view.slots]
    yield gauge("agentd_switch_in_progress", "1 while a switch of this slot runs.", ("slot",), running)
    phases = [((c.slot, c.phase), 1.0) for c in view.running]
    yield gauge(
        "agentd_switch_phase", "The phase of the change that runs; absent otherwise.", ("slot", "phase"), phases
    )


def changes(view: MetricsView) -> Iterable[Metric]:
    totals = view.totals
    switches = [(key, float(n)) for key, n in totals.switches.items()]
    yield counter("agentd_switch", "Finished switches.", ("from", "to", "result"), switches)
    yield histogram(
        "agentd_switch_duration_seconds",
        "From the request to the end of a switch.",
        ("from", "to", "way"),
        totals.durations.items(),
    )
    yield histogram(
        "agentd_switch_phase_duration_seconds", "Time spent in a phase.", ("phase", "to"), totals.phases.items()
    )
    finished = [(key, float(n)) for key, n in totals.changes.items()]
    yield counter("agentd_change", "Finished changes of every kind.", ("kind", "outcome"), finished)
    last = [((kind,), when) for kind, when in totals.last_finished.items()]
    yield gauge("agentd_change_last_timestamp_seconds", "When a change of this kind last finished.", ("kind",), last)
    yield gauge("agentd_change_in_progress", "Changes that run now.", (), [((), float(len(view.running)))])


def daemon(view: MetricsView) -> Iterable[Metric]:
    build = [((view.version, platform.python_version()), 1.0)]
    yield gauge("agentd_build_info", "Version of agentd and of Python.", ("version", "python"), build)
    simple: Mapping[str, tuple[str, float]] = {
        "agentd_ready": ("1 while every condition of readiness holds.", float(view.ready)),
        "agentd_start_timestamp_seconds": ("When agentd started.", view.started),
        "agentd_config_valid": ("1 when the configuration on disk was last found valid.", float(view.config_valid)),
        "agentd_config_last_reload_timestamp_seconds": (
            "When the configuration in force was loaded.",
            view.config_loaded,
        ),
        "agentd_bus_connected": ("1 while D-Bus answers.", float(view.bus_connected)),
    }
    for name, (text, value) in simple.items():
        yield gauge(name, text, (), [((), value)])
    yield counter(
        "agentd_bus_reconnects", "Times D-Bus was lost and found again.", (), [((), float(view.bus_reconnects))]
    )
    ages = [((source,), age) for source, age in view.ages.items()]
    yield gauge("agentd_snapshot_age_seconds", "Seconds since a source was last read.", ("source",), ages)
    if view.loop_lag is not None:
        lag = [((), view.loop_lag)]
        yield histogram("agentd_event_loop_lag_seconds", "How late the event loop ran a timer.", (), lag)


COLLECTORS: Mapping[str, Callable[[MetricsView], Iterable[Metric]]] = {
    "services": services,
    "probes": probes,
    "slots": slots,
    "models": models,
    "changes": changes,
    "counted": counted,
    "gpus": gpus,
    "runtimes": runtimes,
    "hardening": hardening,
    "redis": redis,
    "gateway": gateway,
    "daemon": daemon,
}
