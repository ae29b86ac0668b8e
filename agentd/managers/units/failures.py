"""Crash loops, OOM kills and start limits of one service: seen, told, and backed off by policy. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agentd.core.backoff import backoff_seconds
from agentd.core.explain import refused_its_config
from agentd.core.schema import Daemon, Recovery
from agentd.types import ActiveState, UnitState


def given_up(state: UnitState) -> bool:
    """systemd will not start it again by itself: its start limit is hit.

    Only a start by hand ends with the result "start-limit-hit"; a crash loop that runs into the limit keeps the
    result of its last crash, and that systemd restarted it before is what tells it from a unit that just failed.
    """
    if state.active_state is not ActiveState.FAILED:
        return False
    return state.result == "start-limit-hit" or state.restarts > 0


def config_error(state: UnitState, role: str) -> bool:
    """A LiteLLM that says that it cannot use its configuration or its port: to start it again does not help."""
    return role == "gateway" and state.active_state is ActiveState.FAILED and refused_its_config(state)


@dataclass(slots=True)
class FailureRecord:
    """What the last minutes of a service looked like. Times are monotonic."""

    restarts_seen: int = 0
    restart_times: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    crash_loop: bool = False
    attempts: int = 0
    """Recoveries by us since it was last healthy for long enough to count."""
    exhausted: bool = False
    """The policy allows no further try, and that was told."""
    ready_since: float | None = None
    told: str = ""
    """The failure that was told already, so that it is told once."""

    def note_restarts(self, state: UnitState, now: float, daemon: Daemon) -> bool:
        """Count systemd's automatic restarts; True when this makes it a crash loop."""
        new = state.restarts - self.restarts_seen
        self.restarts_seen = state.restarts
        if new > 0:
            self.restart_times.extend([now] * min(new, 64))
        while self.restart_times and now - self.restart_times[0] > daemon.crash_loop_window:
            self.restart_times.popleft()
        before = self.crash_loop
        self.crash_loop = len(self.restart_times) >= daemon.crash_loop_restarts
        return self.crash_loop and not before

    def news(self, state: UnitState, role: str = "") -> str:
        """The kind of event that this state is, "" when it was told or is none."""
        kind = ""
        if config_error(state, role):
            kind = "service.config-error"
        elif state.result == "oom-kill":
            kind = "service.oom-killed"
        elif given_up(state):
            kind = "service.start-limit"
        elif state.active_state is ActiveState.FAILED:
            kind = "service.failed"
        mark = f"{kind}:{state.invocation_id}" if kind else ""
        if mark == self.told:
            return ""
        self.told = mark
        return kind

    def note_health(self, *, ready: bool, now: float, long_enough: float) -> None:
        """A service that was ready for `long_enough` seconds has its tries back; one that flaps has not."""
        if ready and self.ready_since is None:
            self.ready_since = now
        if self.ready_since is not None and now - self.ready_since >= long_enough:
            self.attempts, self.exhausted = 0, False
        if not ready:
            self.ready_since = None

    def next_recovery(self, policy: Recovery, jitter: float) -> float | None:
        """Seconds until we reset and start the unit that systemd has given up; None when we do not."""
        if policy.policy == "none" or self.attempts >= policy.attempts:
            return None
        self.attempts += 1
        return backoff_seconds(self.attempts, base=policy.base, cap=policy.max, jitter=jitter)
