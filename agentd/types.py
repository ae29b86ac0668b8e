"""Enums and frozen records that every floor shares. Times are wall-clock seconds since the epoch unless noted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum


class Scope(StrEnum):
    USER = "user"
    SYSTEM = "system"


class Role(StrEnum):
    MODEL = "model"
    RUNTIME = "runtime"
    GATEWAY = "gateway"
    STORE = "store"
    GENERIC = "generic"


class ActiveState(StrEnum):
    """systemd's ActiveState; `UNKNOWN` stands for a value that this version does not know."""

    ACTIVE = "active"
    RELOADING = "reloading"
    REFRESHING = "refreshing"
    INACTIVE = "inactive"
    FAILED = "failed"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    MAINTENANCE = "maintenance"
    UNKNOWN = "unknown"

    @classmethod
    def parse(cls, text: str) -> ActiveState:
        return cls(text) if text in cls._value2member_map_ else cls.UNKNOWN

    @property
    def up(self) -> bool:
        """True while processes of the unit may hold resources or are about to."""
        return self not in (ActiveState.INACTIVE, ActiveState.FAILED)


class JobResult(StrEnum):
    """systemd's JobRemoved results; `LOST`: the bus went away before the result was seen."""

    DONE = "done"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    FAILED = "failed"
    DEPENDENCY = "dependency"
    SKIPPED = "skipped"
    INVALID = "invalid"
    ASSERT = "assert"
    UNSUPPORTED = "unsupported"
    COLLECTED = "collected"
    ONCE = "once"
    FROZEN = "frozen"
    CONCURRENCY = "concurrency"
    LOST = "lost"
    UNKNOWN = "unknown"

    @classmethod
    def parse(cls, text: str) -> JobResult:
        return cls(text) if text in cls._value2member_map_ else cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of one unit at one moment (properties of the Unit and Service interfaces)."""

    name: str
    load_state: str = "not-found"
    active_state: ActiveState = ActiveState.INACTIVE
    sub_state: str = "dead"
    description: str = ""
    unit_file_state: str = ""
    fragment_path: str = ""
    dropin_paths: tuple[str, ...] = ()
    need_daemon_reload: bool = False
    main_pid: int = 0
    exec_pid: int = 0
    """The main process that ran last; also once it has ended."""
    control_group: str = ""
    result: str = "success"
    exec_code: int = 0
    """CLD_EXITED (1), CLD_KILLED (2) or CLD_DUMPED (3) of the last main process; 0 when none has ended."""
    exec_status: int = 0
    """Exit status, or the signal number when `exec_code` is 2 or 3."""
    restarts: int = 0
    invocation_id: str = ""
    active_since: float = 0.0
    conflicts: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    load_error: str = ""
    exec_start: tuple[str, ...] = ()
    """argv of ExecStart=, program first; variables stay as they are written, but for figures of Environment=."""
    memory_max: int | None = None
    """MemoryMax= of the unit itself in bytes; None: no limit, or not known."""
    job: str = ""
    """Type of the queued job ("start", "stop", ...); filled in by UnitControl.list only."""

    @property
    def exists(self) -> bool:
        return self.load_state not in ("not-found", "")


class Health(StrEnum):
    """The one word that a user reads for a service."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DEGRADED = "degraded"
    """Ready itself, but something that it depends on is not."""
    ASLEEP = "asleep"
    """A model that was put to sleep so that another one can have the GPU; it wakes quicker than it starts."""
    STOPPING = "stopping"
    FAILED = "failed"
    MISSING = "missing"
    UNKNOWN = "unknown"


class ProbeKind(StrEnum):
    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """The rolled-up verdict of one probe: `passing` is None until enough answers were seen."""

    kind: ProbeKind
    passing: bool | None = None
    detail: str = ""
    last_time: float = 0.0
    last_seconds: float = 0.0
    failures: int = 0
    """Consecutive failures."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A supervised service as the last pass saw it."""

    name: str
    role: Role
    unit: str
    health: Health = Health.UNKNOWN
    cause: str = ""
    """Why it is not ready, in one sentence; empty when it is."""
    active_state: ActiveState = ActiveState.UNKNOWN
    sub_state: str = ""
    main_pid: int = 0
    since: float = 0.0
    restarts: int = 0
    url: str = ""
    probes: tuple[ProbeStatus, ...] = ()
    depends_on: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    crash_loop: bool = False
    observed: float = 0.0
    enabled: bool = True
    """False: the configuration, or the profile of use, says that it does not run."""


class Outcome(StrEnum):
    """How a change ended."""

    DONE = "done"
    ALREADY = "already"
    REFUSED = "refused"
    DRAIN_REFUSED = "drain-refused"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled-back"
    DEGRADED = "degraded"
    WEDGED = "wedged"
    RECOVERED = "recovered"
    """Cut off by a crash of agentd; the healthy model found afterwards was adopted."""


class ExitCode(int, Enum):
    """Exit codes of agentctl; stable, scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    DRAIN_REFUSED = 4
    ROLLED_BACK = 5
    DEGRADED = 6
    WEDGED = 7
    BUSY = 8
    CANCELLED = 9


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """One phase that a change went through; `seconds` is None while it runs."""

    phase: str
    started: float
    seconds: float | None = None
    result: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A journaled operation on a slot. `outcome` is None while it runs."""

    id: str
    kind: str
    """"switch", "unload", "lease" or "sleep-check" on a slot; others on none."""
    slot: str
    target: str | None
    previous: str | None
    created: float
    phase: str
    finished: float | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None
    message: str = ""
    cause: str = ""
    phases: tuple[PhaseRecord, ...] = ()
    origin: str = "api"
    """Who asked: "api", "gateway", "profile", "default", "lease-end" or "recovery"."""
    way: str = ""
    """How the target came up: "cold" (started) or "wake" (woken from sleep); "" while that is not known."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """`state` is a resting state of the switch, or the phase of the running change."""

    name: str
    state: str
    models: tuple[str, ...]
    resident: str | None = None
    default: str | None = None
    change: str | None = None
    lease_until: float | None = None
    cooldowns: dict[str, float] = field(default_factory=dict)
    """Model -> wall-clock second until which an automatic or plain switch to it is refused."""
    cause: str = ""
    sleeping: tuple[str, ...] = ()
    """Models whose units are up and asleep: they hold little GPU memory and serve nothing."""


@dataclass(frozen=True, slots=True)
class Event:
    """A fact with a time; `seq` grows by one per event."""

    seq: int
    time: float
    kind: str
    subject: str
    message: str
    data: dict[str, str | int | float | bool | None] = field(default_factory=dict)
