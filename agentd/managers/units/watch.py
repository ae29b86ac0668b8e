"""One supervised service: its unit's state, its main process's pidfd, its probes, and the status made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentd.core.checks import roll_up
from agentd.core.explain import explain
from agentd.core.probes import effective_probes
from agentd.core.schema import Service
from agentd.managers.units.failures import FailureRecord
from agentd.managers.units.probing import Probing
from agentd.ports import Clock, ExitWatch, JournalReader, Kernel, Prober, UnitControl
from agentd.types import ActiveState, Health, ProbeKind, Role, ServiceStatus, UnitState


@dataclass(frozen=True, slots=True)
class UnitPorts:
    control: UnitControl
    kernel: Kernel
    prober: Prober
    journal: JournalReader
    clock: Clock


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
        self.cause = ""
        self.observed = 0.0
        self._ports = ports
        self._on_news = on_news
        self._on_exit = on_exit
        self._exit: ExitWatch | None = None
        self._pid = 0
        self._probing = Probing(
            service, effective_probes(service), ports.prober, ports.clock, lambda _kind: on_news(name)
        )

    async def refresh(self) -> None:
        """Read the unit again; a new main process gets a new pidfd and new probes."""
        state = await self._ports.control.show(self.service.unit)
        first = self.observed == 0.0
        self.state, self.observed = state, self._ports.clock.time()
        if first:
            self.failures.restarts_seen = state.restarts
        self._follow(state.main_pid)
        self.cause = await self._explained(state)

    def _follow(self, pid: int) -> None:
        if pid == self._pid:
            return
        self._unfollow()
        if not pid:
            return
        self._pid = pid
        self._exit = self._ports.kernel.watch_exit(pid, lambda: self._ended(pid))
        if self._exit is not None:
            self._probing.restart()

    def _ended(self, pid: int) -> None:
        """The kernel's word, some milliseconds before systemd's."""
        self._unfollow()
        self._on_exit(self.name, pid)

    def _unfollow(self) -> None:
        if self._exit is not None:
            self._exit.close()
            self._exit = None
        self._pid = 0
        self._probing.stop()

    async def _explained(self, state: UnitState) -> str:
        broken = state.active_state is ActiveState.FAILED or state.sub_state == "auto-restart"
        if not broken and state.load_state == "loaded":
            return ""
        if self.cause and broken and self._explained_for == state.invocation_id:
            return self.cause
        self._explained_for = state.invocation_id
        lines = await self._ports.journal.tail(state.name, lines=100, invocation=state.invocation_id) if broken else ()
        return explain(state, lines)

    _explained_for = ""

    @property
    def process_ended(self) -> bool:
        """The main process is gone although systemd has not said so yet."""
        return bool(self.state.main_pid) and self._pid == 0

    def status(self, health_of: Mapping[str, Health]) -> ServiceStatus:
        """`health_of`: the health of the services that this one depends on, by name."""
        verdict = roll_up(
            self.state, self._probing.statuses, {n: health_of.get(n, Health.UNKNOWN) for n in self.service.depends_on}
        )
        health, cause, blocked = verdict.health, verdict.cause or self.cause, verdict.blocked_by
        if self.process_ended and self.state.active_state is ActiveState.ACTIVE:
            health, cause = Health.FAILED, f"main process {self.state.main_pid} has ended"
        if health is Health.READY:
            cause = ""
            self.failures.healthy()
        elif self.cause and health in (Health.FAILED, Health.MISSING, Health.STARTING):
            cause = self.cause
        return ServiceStatus(
            name=self.name,
            role=Role(self.service.role),
            unit=self.service.unit,
            health=health,
            cause=cause,
            active_state=self.state.active_state,
            sub_state=self.state.sub_state,
            main_pid=self._pid,
            since=self.state.active_since,
            restarts=self.state.restarts,
            url=self.service.url,
            probes=self._probing.statuses,
            depends_on=self.service.depends_on,
            blocked_by=blocked,
            crash_loop=self.failures.crash_loop,
            observed=self.observed,
        )

    def hurry(self) -> None:
        """Somebody has just seen it answer: ask now instead of at the next period."""
        if self._exit is not None:
            self._probing.restart()

    def liveness_failed(self) -> bool:
        status = self._probing.status(ProbeKind.LIVENESS)
        return status is not None and status.passing is False

    def close(self) -> None:
        self._unfollow()
