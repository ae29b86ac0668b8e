"""One supervised service: its unit's state, its main process's pidfd, its probes, and the status made of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from agentd.core.checks import roll_up
from agentd.core.explain import explain
from agentd.core.probes import effective_probes
from agentd.core.schema import Service
from agentd.managers.units.failures import FailureRecord, given_up
from agentd.managers.units.probing import Probing
from agentd.ports import Clock, ExitWatch, JournalReader, Kernel, Prober, UnitControl
from agentd.types import ActiveState, Health, ProbeKind, Role, ServiceStatus, UnitState

Readiness = Callable[[str, float], Awaitable[None]]
"""(service, seconds): what the readiness of a gateway is besides its probe. Raises AgentdError with what is wrong."""


@dataclass(frozen=True, slots=True)
class UnitPorts:
    control: UnitControl
    kernel: Kernel
    prober: Prober
    journal: JournalReader
    clock: Clock
    gateway_ready: Readiness | None = None


class ServiceWatch:
    """`on_news()` asks for a new status; `on_exit()` says that the main process has just ended."""

    def __init__(
        self,
        name: str,
        service: Service,
        ports: UnitPorts,
        on_news: Callable[[str], None],
        on_exit: Callable[[str, int], None],
    ) -> None:
        self.name = name
        self.service = service
        self.state = UnitState(service.unit)
        self.failures = FailureRecord()
        self.cause = self.last_cause = ""
        self.observed = 0.0
        self._ports = ports
        self._on_exit = on_exit
        self._exit: ExitWatch | None = None
        self._run: tuple[int, str] | None = None
        """Main process and invocation that are followed."""
        self._explained_for = ""
        self._liveness_told = False
        further = partial(ports.gateway_ready, name) if ports.gateway_ready and service.role == "gateway" else None
        probes = effective_probes(service)
        if not service.own_unit:  # Nobody tells when it starts, so there is no start to watch over.
            probes = {kind: probe for kind, probe in probes.items() if kind is not ProbeKind.STARTUP}
        self._probing = Probing(service, probes, ports.prober, ports.clock, lambda: on_news(name), further)

    async def refresh(self) -> None:
        """Read the unit again; a new main process gets a new pidfd and new probes."""
        unit = self.service.unit
        state = await self._ports.control.show(unit) if self.service.own_unit else outside(unit)
        first = self.observed == 0.0
        self.state, self.observed = state, self._ports.clock.time()
        if first:
            self.failures.restarts_seen = state.restarts
        self._follow(state)
        self.cause = await self._explained(state)
        self.last_cause = self.cause or self.last_cause

    def _follow(self, state: UnitState) -> None:
        """A unit without a main process (a oneshot that remains, say) is probed all the same while it is active."""
        run = (state.main_pid, state.invocation_id)
        if not state.main_pid and state.active_state is not ActiveState.ACTIVE:
            self._unfollow()
            self._run = None
            return
        if run == self._run:
            return
        self._unfollow()
        pid = state.main_pid
        if pid:
            self._exit = self._ports.kernel.watch_exit(pid, lambda: self._ended(pid))
        self._run = run
        if self._exit is not None or not pid:
            self._liveness_told = False
            self._probing.restart()

    def _ended(self, pid: int) -> None:
        """The kernel's word, some milliseconds before systemd's. `_run` stays: a process ends once."""
        self._unfollow()
        self._on_exit(self.name, pid)

    def _unfollow(self) -> None:
        if self._exit is not None:
            self._exit.close()
            self._exit = None
        self._probing.stop()

    async def _explained(self, state: UnitState) -> str:
        broken = state.active_state is ActiveState.FAILED or state.sub_state == "auto-restart"
        if not broken and state.load_state == "loaded":
            return ""
        over = given_up(state)
        mark = f"{state.invocation_id}:{over}"
        if self.cause and broken and self._explained_for == mark:
            return self.cause
        self._explained_for = mark
        lines: tuple[str, ...] = ()
        if broken:
            lines = await self._ports.journal.tail(
                state.name, lines=100, invocation=state.invocation_id, pid=state.exec_pid
            )
        text = explain(state, lines)
        if over and state.result != "start-limit-hit":
            text += f"; systemd has given it up after {state.restarts} restart{'s' if state.restarts != 1 else ''}"
        return text

    @property
    def process_ended(self) -> bool:
        """The main process is gone although systemd has not said so yet."""
        return bool(self.state.main_pid) and self._exit is None and self._run is not None

    def status(self, health_of: Mapping[str, Health]) -> ServiceStatus:
        """`health_of`: the health of the services that this one depends on, by name. One that is not there is not
        accused."""
        verdict = roll_up(
            self.state, self._probing.statuses, {n: health_of.get(n, Health.UNKNOWN) for n in self.service.depends_on}
        )
        health, cause = verdict.health, verdict.cause or self.cause
        if self.process_ended and self.state.active_state is ActiveState.ACTIVE:
            # Whether it failed or was stopped, only systemd knows.
            health, cause = Health.UNREADY, f"main process {self.state.main_pid} has ended"
        elif health is Health.READY:
            cause = ""
        elif self.cause and health in (Health.FAILED, Health.MISSING, Health.STARTING):
            cause = self.cause
        active = self.state.active_state
        if not self.service.own_unit and health is not Health.READY:
            active = ActiveState.UNKNOWN
            if health is Health.STARTING:
                health, cause = Health.UNKNOWN, f"{self.name} has not answered yet"
        return ServiceStatus(
            name=self.name,
            role=Role(self.service.role),
            unit=self.service.unit,
            health=health,
            cause=cause,
            active_state=active,
            sub_state=self.state.sub_state,
            main_pid=0 if self._exit is None else self.state.main_pid,
            since=self.state.active_since,
            restarts=self.state.restarts,
            url=self.service.url,
            probes=self._probing.statuses,
            depends_on=self.service.depends_on,
            blocked_by=verdict.blocked_by,
            crash_loop=self.failures.crash_loop,
            observed=self.observed,
            enabled=self.service.enabled,
        )

    def hurry(self) -> None:
        """Somebody has just seen it answer: ask now instead of at the next period."""
        self._probing.hurry()

    def newly_not_alive(self) -> bool:
        """The liveness probe fails; True once until it passes again or another process runs."""
        status = self._probing.status(ProbeKind.LIVENESS)
        failed = status is not None and status.passing is False
        news, self._liveness_told = failed and not self._liveness_told, failed
        return news

    def close(self) -> None:
        self._unfollow()


def outside(unit: str) -> UnitState:
    """What somebody else's manager runs: it is probed, and that is all that is known of it."""
    return UnitState(unit, load_state="loaded", active_state=ActiveState.ACTIVE, sub_state="probed")
