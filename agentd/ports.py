"""The outside world as Protocols. Managers and the engine see these; adapters implement them.

Every awaitable here has a deadline of its own or takes one, and raises AgentdError (never a library's error).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentd.gpu import GpuSnapshot
from agentd.model_facts import ModelFacts
from agentd.types import Change, Event, JobResult, UnitState


class Job(Protocol):
    """A queued systemd job. Several waiters may await the same job."""

    @property
    def unit(self) -> str: ...

    async def wait(self, timeout: float) -> JobResult:
        """The job's result; LOST when the bus went away meanwhile. Raises AgentdError("job-timeout")."""
        ...


class UnitControl(Protocol):
    """systemd over D-Bus (user or system manager)."""

    @property
    def connected(self) -> bool: ...

    async def start(self, unit: str) -> Job: ...
    async def stop(self, unit: str) -> Job: ...
    async def restart(self, unit: str) -> Job: ...

    async def show(self, unit: str) -> UnitState:
        """Full state; a unit without a file has load_state "not-found", it is not an error."""
        ...

    async def list(self, units: Sequence[str]) -> Mapping[str, UnitState]:
        """Brief states (load, active, sub, queued job) of many units in one call."""
        ...

    async def reset_failed(self, unit: str) -> None: ...

    async def kill(self, unit: str, signal: int) -> None:
        """Signal every process of the unit's cgroup."""
        ...

    async def reload(self) -> None:
        """daemon-reload; returns when systemd has finished it. Serialised by the adapter."""
        ...

    async def watch(self, units: Sequence[str]) -> None:
        """Replace the set of supervised units: one match rule each."""
        ...

    def on_change(self, callback: Callable[[str | None], None]) -> None:
        """`callback(unit)` when a watched unit's properties changed; `callback(None)` after a reconnect, a
        reload or a re-exec, when everything must be read again. Runs in the loop and must not block."""
        ...


class ExitWatch(Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PortHolder:
    """Who listens on a TCP port; pid 0 and an empty name where the kernel does not tell us."""

    port: int
    pid: int
    comm: str
    unit: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process at one moment; `start` in clock ticks since the boot tells it from a later one of the same pid."""

    pid: int
    start: int
    uid: int
    comm: str
    title: str
    """Its command line as ps shows it, arguments joined by blanks; programs may have replaced it."""


class Kernel(Protocol):
    """procfs, cgroupfs and pidfds."""

    def watch_exit(self, pid: int, callback: Callable[[], None]) -> ExitWatch | None:
        """Call back in the loop when the process ends (pidfd); None when it has already gone."""
        ...

    def cgroup_pids(self, control_group: str) -> frozenset[int]:
        """Pids in the cgroup and below it; empty when the cgroup does not exist."""
        ...

    def kill_cgroup(self, control_group: str) -> int:
        """SIGKILL every process in the cgroup and below it; the number of processes it held."""
        ...

    def unit_of(self, pid: int) -> str:
        """The systemd unit whose cgroup holds the pid; "" when none or gone."""
        ...

    def comm(self, pid: int) -> str: ...

    def variables(self, pid: int, names: Collection[str]) -> Mapping[str, str] | None:
        """Of the environment that the process was started with, these alone; None when it is not ours to read."""
        ...

    def process(self, pid: int) -> ProcessInfo | None:
        """None when it has gone, or is a zombie: that holds nothing any more."""
        ...

    def kill(self, pid: int, start: int) -> bool:
        """SIGKILL to the process that was started at `start` (see ProcessInfo), never to another that has its pid by
        now. False when it has gone, or is not ours to signal."""
        ...

    def cpu_seconds(self, control_group: str) -> float:
        """CPU time that the cgroup has used; 0.0 where it is not known."""
        ...

    def port_holder(self, port: int) -> PortHolder | None:
        """The listener on this TCP port on loopback or any address, or None when the port is free."""
        ...

    def socket_holder(self, path: str) -> PortHolder | None:
        """Who listens on this unix socket, or None when nobody does; its `port` is 0."""
        ...

    def memory_available(self) -> int:
        """MemAvailable in bytes."""
        ...


class Gpus(Protocol):
    async def read(self, *, details: bool = False) -> GpuSnapshot:
        """Memory and processes of every GPU, on request with `Gpu.details`; never raises, an NVML failure is in
        `error`. Answers within its own deadline also while NVML hangs."""
        ...


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    body: bytes
    seconds: float


class Prober(Protocol):
    """Checks of a service from outside. Failures to connect raise AgentdError("probe-failed")."""

    async def http(
        self,
        url: str,
        *,
        timeout: float,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        json: object | None = None,
    ) -> HttpAnswer: ...

    async def tcp(self, host: str, port: int, *, timeout: float) -> None: ...

    async def redis_ping(self, url: str, *, timeout: float) -> None: ...

    async def exec(self, argv: Sequence[str], *, timeout: float) -> None: ...


class JournalReader(Protocol):
    async def tail(self, unit: str, *, lines: int, invocation: str = "", pid: int = 0) -> tuple[str, ...]:
        """The unit's last messages, oldest first; empty when the journal cannot be read. `pid`: its main process,
        whose messages journald may not know to be the unit's."""
        ...

    def follow(self, unit: str, *, invocation: str = "", pid: int = 0) -> AsyncGenerator[str, None]:
        """Every message of the run so far, then each new one as it comes. Ends when the journal cannot be read; close
        it (aclosing) to stop."""
        ...


class Notifier(Protocol):
    """sd_notify; every call is a no-op when not started by systemd."""

    def ready(self) -> None: ...
    def status(self, text: str) -> None: ...
    def reloading(self) -> None: ...
    def stopping(self) -> None: ...
    def watchdog(self) -> None: ...

    @property
    def watchdog_period(self) -> float | None:
        """Seconds between two pings that keep us safe, or None."""
        ...


class Clock(Protocol):
    def time(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What must survive a restart of agentd about a slot; intent only, never observation."""

    name: str
    desired: str | None = None
    """The model that was last committed, or None after an unload."""
    decided: bool = False
    """False until the first commit or unload: the configured default applies."""
    lease_until: float | None = None
    lease_restore: str | None = None
    cooldowns: Mapping[str, tuple[int, float]] | None = None
    """Model -> (consecutive failures, wall-clock end)."""
    asleep: Mapping[str, int] | None = None
    """Model -> level at which a switch put it to sleep; whether it still sleeps, the server says."""
    parked: tuple[str, ...] = ()
    """Services that a change of ours has stopped and must start again at its end."""


class Store(Protocol):
    """The durable journal. A write returns once it is on disk; a full disk raises AgentdError("journal-full")."""

    async def save_change(self, change: Change) -> None: ...
    async def change(self, change_id: str) -> Change | None: ...
    async def changes(self, limit: int) -> tuple[Change, ...]: ...
    async def open_changes(self) -> tuple[Change, ...]:
        """Changes without an outcome: cut off by a crash."""
        ...

    async def save_slot(self, record: SlotRecord) -> None: ...
    async def slot(self, name: str) -> SlotRecord: ...
    async def append_events(self, events: Sequence[Event]) -> None: ...
    async def events(self, limit: int, after: int = 0) -> tuple[Event, ...]: ...
    async def last_event_seq(self) -> int: ...
    async def save_facts(self, facts: ModelFacts) -> None: ...
    async def forget_facts(self, models: Sequence[str]) -> None: ...
    async def facts(self) -> tuple[ModelFacts, ...]:
        """Of every model that anything was learned of."""
        ...


class Files(Protocol):
    """Small text files below directories that agentd may write."""

    async def read(self, path: str) -> str | None:
        """The text, or None when there is no such file."""
        ...

    async def exists(self, path: str) -> bool: ...

    async def find(self, directory: str, pattern: str) -> tuple[str, ...]:
        """Paths below the directory that match the glob, sorted; none when the directory does not exist."""
        ...

    async def apply(self, desired: Mapping[str, str | None]) -> Mapping[str, str | None]:
        """Write (text) or remove (None) each path, all or nothing; returns the old texts for an undo."""
        ...
