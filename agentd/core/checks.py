"""From single answers to a verdict, and from verdicts to the one word that a user reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agentd.core.explain import explain, not_loaded
from agentd.core.schema import Probe
from agentd.types import ActiveState, Health, ProbeKind, ProbeStatus, UnitState


class Tracker:
    """Kubernetes' thresholds for one probe: `failure_threshold` failures in a row make it fail, `success_threshold`
    successes in a row make it pass; before either, what held goes on to hold."""

    def __init__(self, kind: ProbeKind, probe: Probe) -> None:
        self._probe = probe
        self._successes = 0
        self.status = ProbeStatus(kind)

    def observe(self, *, ok: bool, now: float, seconds: float, detail: str = "") -> bool:
        """Take one answer in; True when what is shown of the service may have changed."""
        before = self.status
        passing = before.passing
        self._successes = self._successes + 1 if ok else 0
        failures = 0 if ok else before.failures + 1
        if self._successes >= self._probe.success_threshold:
            passing = True
        elif failures >= self._probe.failure_threshold:
            passing = False
        self.status = replace(
            before,
            passing=passing,
            detail="" if ok else detail,
            last_time=now,
            last_seconds=seconds,
            failures=failures,
        )
        return passing is not before.passing or (passing is not True and self.status.detail != before.detail)


@dataclass(frozen=True, slots=True)
class Verdict:
    health: Health
    cause: str = ""
    """Why it is not ready, in one sentence; empty when it is."""
    blocked_by: tuple[str, ...] = ()
    """Dependencies that are not ready; one whose health is unknown is not accused."""


_BY_STATE: Mapping[ActiveState, tuple[Health, str]] = {
    ActiveState.INACTIVE: (Health.STOPPED, "{name} is stopped"),
    ActiveState.DEACTIVATING: (Health.STOPPING, "{name} is stopping"),
    ActiveState.MAINTENANCE: (Health.STOPPED, "{name} is in maintenance"),
    ActiveState.UNKNOWN: (Health.UNKNOWN, "the state of {name} is not known"),
}
_SERVES = (Health.READY, Health.DEGRADED)


def roll_up(state: UnitState, probes: Iterable[ProbeStatus], dependencies: Mapping[str, Health]) -> Verdict:
    """The health of a service: its unit first, then its own probes, then what it depends on."""
    health, cause = _own(state, {probe.kind: probe for probe in probes})
    blocked = tuple(name for name, of in dependencies.items() if of not in _SERVES and of is not Health.UNKNOWN)
    if health is Health.READY and blocked:
        said = ", ".join(f"{name} is {dependencies[name].value}" for name in blocked)
        return Verdict(Health.DEGRADED, f"it depends on others: {said}", blocked)
    return Verdict(health, cause, blocked)


def _own(state: UnitState, probes: Mapping[ProbeKind, ProbeStatus]) -> tuple[Health, str]:
    active = state.active_state
    if not_loaded(state):
        return Health.MISSING, explain(state, ())
    if active is ActiveState.FAILED:
        return Health.FAILED, explain(state, ())
    if active is ActiveState.ACTIVATING:
        return Health.STARTING, _starting(state)
    if active in _BY_STATE:
        health, text = _BY_STATE[active]
        return health, text.format(name=state.name)
    return _probed(state, probes)


def _starting(state: UnitState) -> str:
    if state.sub_state == "auto-restart":
        return f"{explain(state, ())}; systemd starts it again"
    return f"{state.name} is starting"


def _probed(state: UnitState, probes: Mapping[ProbeKind, ProbeStatus]) -> tuple[Health, str]:
    """The unit is active: startup hides the others until it has passed; silence so far means starting."""
    for kind in (ProbeKind.STARTUP, ProbeKind.LIVENESS, ProbeKind.READINESS):
        probe = probes.get(kind)
        if probe is not None and probe.passing is False:
            return Health.UNREADY, f"{kind.value} probe: {probe.detail or 'failed'}"
        if probe is not None and probe.passing is None and kind is not ProbeKind.LIVENESS:
            waiting = f": {probe.detail}" if probe.detail else ""
            return Health.STARTING, f"{state.name} runs and has not answered yet{waiting}"
    return Health.READY, ""
