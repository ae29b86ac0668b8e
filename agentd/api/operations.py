"""Everything that the handlers need of the daemon, as one Protocol.

Plain methods read the last snapshot and return at once: none may wait for D-Bus, NVML, Redis, HTTP or the disk.
Coroutines act, or read the journal on disk. What goes wrong is an AgentdError; its `kind` chooses the HTTP status.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agentd.api.operations_gateway import GatewayOperations
from agentd.api.operations_hardening import HardeningOperations
from agentd.api.operations_profile import ProfileOperations
from agentd.api.operations_redis import RedisOperations
from agentd.findings import Finding
from agentd.gpu import GpuSnapshot
from agentd.model_facts import ModelFacts
from agentd.runtimes import RuntimeStatus
from agentd.types import Change, Event, Health, Scope, ServiceStatus, SlotStatus
from agentd.wire import LeaseRequest, SleepCheckRequest, SwitchPlan, SwitchRequest, UnloadRequest

ServiceVerb = Literal["start", "stop", "restart"]


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of readiness; `detail` says why it fails."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The process itself; `started` in seconds since the epoch."""

    version: str
    pid: int
    scope: Scope
    started: float
    status: str = ""
    """The same plain words that systemd shows as STATUS=."""


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """`valid` is about the last attempt to load; while it is False the configuration of `loaded` goes on."""

    valid: bool
    loaded: float
    attempted: float
    files: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    profile: str = ""
    """The profile of use in force; "" for none."""


@dataclass(frozen=True, slots=True)
class BusStatus:
    connected: bool
    reconnects: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model as a user chooses it; the details of its unit are in its ServiceStatus of the same name."""

    name: str
    slot: str
    unit: str
    served_name: str
    url: str = ""
    active: bool = False
    """Resident in its slot, by the slot's own account."""
    health: Health = Health.UNKNOWN
    vram: int = 0
    cooldown_until: float | None = None
    state: str = "stopped"
    """"resident", "asleep" or "stopped", by the slot's own account."""
    level: int = 0
    """At which it sleeps; 0 for one that does not."""
    learned_vram: int = 0
    """GPU memory that it was seen to hold; 0 while that is not known, as for the two below."""
    load_seconds: float = 0.0
    wake_seconds: float = 0.0
    off: str = ""
    """Why it may not be resident though it is configured; "" when it may."""


@dataclass(frozen=True, slots=True)
class ModelDetail:
    """One model, and what was learned of it on this machine."""

    status: ModelStatus
    facts: ModelFacts


class Operations(Protocol):
    @property
    def hardening(self) -> HardeningOperations: ...
    @property
    def redis(self) -> RedisOperations: ...
    @property
    def gateway(self) -> GatewayOperations: ...
    @property
    def profiles(self) -> ProfileOperations: ...

    def daemon(self) -> DaemonStatus: ...
    def live(self) -> Sequence[Check]:
        """Conditions of /livez; that it answers at all says that the loop is alive."""
        ...

    def ready(self) -> Sequence[Check]:
        """Conditions of /readyz: configuration valid, bus up, first pass done."""
        ...

    def config_status(self) -> ConfigStatus: ...
    def bus_status(self) -> BusStatus: ...
    def ages(self) -> Mapping[str, float]:
        """Source ("units", "probes", "gpus") -> seconds since it was last read."""
        ...

    def services(self) -> Sequence[ServiceStatus]: ...
    def slots(self) -> Sequence[SlotStatus]: ...
    def models(self) -> Sequence[ModelStatus]: ...
    def facts_of(self, model: str) -> ModelFacts:
        """What was learned of a configured model; of one that never ran, nothing."""
        ...

    def gpus(self) -> GpuSnapshot: ...
    def gpu_findings(self) -> Sequence[Finding]:
        """Those of `findings` that concern GPUs and their driver."""
        ...

    def runtimes(self) -> Sequence[RuntimeStatus]:
        """Other users of the GPU (Ollama), and what they have loaded."""
        ...

    def findings(self) -> Sequence[Finding]:
        """Everything that was verified: exclusion and readiness, GPUs, the host, hardening unit by unit."""
        ...

    def config(self) -> Mapping[str, object]:
        """The configuration in force, as plain values."""
        ...

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and text for an Accept header; see agentd.metrics.Exposition."""
        ...

    async def switch(self, request: SwitchRequest) -> tuple[Change, bool]:
        """The change, begun and journaled, and whether it is one that already ran. Does not wait for its end."""
        ...

    async def plan(self, request: SwitchRequest) -> SwitchPlan: ...
    async def unload(self, request: UnloadRequest) -> tuple[Change, bool]: ...
    async def sleep_check(self, request: SleepCheckRequest) -> tuple[Change, bool]: ...
    async def lease(self, request: LeaseRequest) -> tuple[Change, bool]: ...
    async def end_lease(self, slot: str) -> Change | None:
        """The change that brings the model back; None when there is none to bring back. "" is the only slot."""
        ...

    async def cancel(self, change_id: str) -> Change: ...

    async def change(self, change_id: str) -> Change | None: ...
    async def changes(self, limit: int) -> Sequence[Change]:
        """Newest first."""
        ...

    def follow_change(self, change_id: str) -> AsyncGenerator[Change, None]:
        """The change as it is now, then every news of it; ends after the finished one."""
        ...

    def events(self, limit: int, after: int = 0) -> Sequence[Event]:
        """The newest `limit` events numbered above `after`, oldest first."""
        ...

    def follow_events(self) -> AsyncGenerator[Event, None]:
        """Events from the first `anext` on; a listener that lags may miss some (numbers tell)."""
        ...

    async def service_action(self, name: str, verb: ServiceVerb) -> ServiceStatus:
        """Returns when systemd's job is done."""
        ...

    async def reload(self) -> ConfigStatus:
        """Raises ConfigError when the new configuration is not usable; the old one then stays in force."""
        ...
