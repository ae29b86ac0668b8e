"""The shape of the configuration: what may be written, its type, its bounds and its default.

Seconds are floats and bytes are ints once validated; in a file both are written as systemd writes them
("90s", "1min 30s", "14G"), see `quantities`. The annotations say all that can be said of one value alone; `leaves`
puts them into force and into words. Cross-references are checked in `crosschecks`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from agentd.core.schema_gateway import GatewayPolicy
from agentd.core.schema_hardening import Hardening, HardeningPolicy, Network, Profile
from agentd.core.schema_redis import RedisPolicy
from agentd.core.schema_types import (
    Bytes,
    Count,
    Delay,
    FilePath,
    GpuIndex,
    HttpPath,
    HttpStatus,
    Listen,
    Names,
    Positive,
    Seconds,
    SecretFile,
    Share,
    Size,
    Text,
    UnitName,
    Url,
    VariableName,
)

__all__ = [
    "Bytes", "Daemon", "Fallback", "GatewayPolicy", "Hardening", "HardeningPolicy", "HttpCheck", "Model", "Probe",
    "Profile", "Recovery", "RedisPolicy", "Runtime", "Seconds", "Service", "Settings", "Slot",
]  # fmt: skip


class HttpCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """GET `path` below the service's url (or a full URL); any status in `expect` is a success."""

    path: HttpPath = "/health"
    expect: Annotated[tuple[HttpStatus, ...], Meta(min_length=1)] = (200,)


class Probe(Struct, frozen=True, forbid_unknown_fields=True):
    """Kubernetes' probe: one of http, tcp, redis, exec.

    In a file, what is left out comes from the role (see `probes`), and `none = true` switches the role's probe off.
    """

    http: HttpCheck | None = None
    tcp: bool = False
    redis: bool = False
    exec: tuple[Text, ...] = ()
    none: bool = False
    initial_delay: Delay = Seconds(0.0)
    period: Positive = Seconds(10.0)
    timeout: Positive = Seconds(1.0)
    failure_threshold: Count = 3
    success_threshold: Count = 1


class Recovery(Struct, frozen=True, forbid_unknown_fields=True):
    """What agentd does once systemd has given a unit up (start limit hit)."""

    policy: Literal["backoff", "none"] = "backoff"
    base: Positive = Seconds(30.0)
    max: Positive = Seconds(900.0)
    attempts: Count = 5


class Fallback(Struct, frozen=True, forbid_unknown_fields=True):
    """What of a model is otherwise while its slot makes do with `fallback_gpus`; 0: as always."""

    tensor_parallel: Annotated[int, Meta(ge=0, le=64)] = 0
    """0: one for each of the GPUs that are left."""
    utilization: Share = 0.0
    max_model_len: Annotated[int, Meta(ge=0, le=100_000_000)] = 0
    vram: Size = Bytes(0)


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """What the switch needs to know of a service with role "model"."""

    slot: Text
    served_name: Text
    path: FilePath = ""
    """The model's directory; checked in PRECHECK when given."""
    vram: Size = Bytes(0)
    """GPU memory it needs to start; 0: what vLLM's utilization says, or what it held last time."""
    host_memory: Size = Bytes(0)
    api_key_file: SecretFile = ""
    """A file with the key alone, or with lines NAME=value (then `api_key_name` chooses)."""
    api_key_name: VariableName = "VLLM_API_KEY"
    drain_timeout: Delay = Seconds(30.0)
    on_busy: Literal["abort", "refuse"] = "abort"
    stop_timeout: Positive = Seconds(90.0)
    start_timeout: Positive = Seconds(60.0)
    ready_timeout: Positive = Seconds(600.0)
    stall_timeout: Delay = Seconds(180.0)
    """While it loads: so long without a line in its log, CPU time or a change of GPU memory is a hang; 0: no limit."""
    verify: bool = True
    verify_timeout: Positive = Seconds(60.0)
    check_files: Literal["headers", "checksums", "none"] = "headers"
    """What PRECHECK looks at below `path`."""
    utilization: Share = 0.0
    """vLLM's --gpu-memory-utilization; 0: what the unit's command line says. This one and the next two reach a unit
    whose command line takes them from variables; see model_flags."""
    max_model_len: Annotated[int, Meta(ge=0, le=100_000_000)] = 0
    """vLLM's --max-model-len in tokens; 0: what the unit's command line says."""
    tensor_parallel: Annotated[int, Meta(ge=0, le=64)] = 0
    """vLLM's --tensor-parallel-size; 0: what the unit's command line says."""
    switch: Literal["stop", "sleep1", "sleep2", "auto"] = "stop"
    """What becomes of it when another model of the slot is wanted: stopped, or put to sleep where that is safe."""
    fallback: Fallback = field(default_factory=Fallback)
    sleep_timeout: Positive = Seconds(60.0)
    wake_timeout: Positive = Seconds(60.0)


class Runtime(Struct, frozen=True, forbid_unknown_fields=True):
    """How a service with role "runtime" (Ollama) shares the GPU."""

    policy: Literal["evict", "cpu_only", "stop_unit", "ignore"] = "evict"
    """Before a model starts: unload what is loaded; keep it off the GPU altogether; stop its unit until the switch is
    over; or leave it alone."""
    managed: Literal["unit", "system", "container"] = "unit"
    """Who runs it: a unit of agentd's own manager, one of the system's, or a container. The last two are looked at by
    their API alone."""
    watch_every: Positive = Seconds(15.0)
    """How often /api/ps is read."""


class Service(Struct, frozen=True, forbid_unknown_fields=True):
    unit: UnitName
    enabled: bool = True
    """False: agentd starts it never and misses it never; a model cannot be switched to."""
    role: Literal["model", "runtime", "gateway", "store", "generic"] = "generic"
    url: Url = ""
    depends_on: Names = ()
    gate: bool = False
    """Install the `readiness` drop-in, so that systemd itself waits until the service answers."""
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    on_liveness: Literal["report", "restart"] = "report"
    """What a failing liveness probe leads to; a busy model is slow, not dead, so a restart must be asked for."""
    recovery: Recovery = field(default_factory=Recovery)
    model: Model | None = None
    runtime: Runtime = field(default_factory=Runtime)
    profile: str = ""
    """Which hardening: a packaged or configured profile, "none", or "" for the one of the role."""
    network: Network = "any"
    hardening: Hardening = field(default_factory=Hardening)

    @property
    def own_unit(self) -> bool:
        """Whether `unit` is one of agentd's own manager, to be started and hardened; else it only names processes."""
        return self.role != "runtime" or self.runtime.managed == "unit"


class Slot(Struct, frozen=True, forbid_unknown_fields=True):
    """A set of GPUs on which at most one model is resident."""

    gpus: Annotated[tuple[GpuIndex, ...], Meta(min_length=1, extra={"unique": True})] = (0,)
    fallback_gpus: Annotated[tuple[GpuIndex, ...], Meta(extra={"unique": True})] = ()
    """Those of `gpus` that its models make do with when others are missing; see Model.fallback."""
    default: str = ""
    vram_probe: Literal["auto", "nvml", "none"] = "auto"
    vram_timeout: Positive = Seconds(60.0)
    vram_stable: Delay = Seconds(1.0)
    vram_margin: Size = Bytes(512 * 1024**2)
    evict: Names = ()
    """Services with role "runtime" whose loaded models are unloaded before a start."""
    evict_timeout: Positive = Seconds(30.0)
    cooldown: Delay = Seconds(30.0)
    cooldown_max: Delay = Seconds(600.0)
    max_sleepers: Annotated[int, Meta(ge=0, le=16)] = 1
    """Models asleep at once; each holds a rest of GPU memory and, at level 1, its weights in main memory."""
    sleep_reserve: Size = Bytes(8 * 1024**3)
    """Main memory that must stay available beyond a sleeper's weights."""
    min_residency: Delay = Seconds(60.0)
    """A switch that a request by the gateway asks for is refused while the resident model is younger."""
    warm_cache: bool = True
    """Read the next model's weights into the page cache while the present one drains and stops."""
    exclusive: bool = True
    """Install the `exclusive` drop-ins (Conflicts=, After=) on the slot's units."""


class Daemon(Struct, frozen=True, forbid_unknown_fields=True):
    scope: Literal["user", "system"] = "user"
    listen: Listen = "127.0.0.1:9775"
    """Loopback address of the read-only HTTP surface; "" switches it off."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    bus_timeout: Positive = Seconds(25.0)
    resync: Positive = Seconds(60.0)
    """Full re-read of everything, in case a signal was lost."""
    crash_loop_restarts: Count = 3
    crash_loop_window: Positive = Seconds(300.0)
    event_history: Count = 10000


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration, merged and validated; immutable."""

    daemon: Daemon = field(default_factory=Daemon)
    slots: dict[str, Slot] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    hardening: HardeningPolicy = field(default_factory=HardeningPolicy)
    redis: RedisPolicy = field(default_factory=RedisPolicy)
    gateway: GatewayPolicy = field(default_factory=GatewayPolicy)

    def models(self, slot: str) -> tuple[str, ...]:
        """Names of the slot's models, in the order of the configuration."""
        return tuple(n for n, s in self.services.items() if s.model is not None and s.model.slot == slot)
