"""The shape of the configuration: what may be written, its type, its bounds and its default.

Seconds are floats and bytes are ints once validated; in a file both are written as systemd writes them
("90s", "1min 30s", "14G"), see `quantities`. Cross-references are checked in `settings`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NewType

from msgspec import Meta, Struct, field

Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)

Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=1)]


class HttpCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """GET `path` below the service's url (or a full URL); any status in `expect` is a success."""

    path: str = "/health"
    expect: tuple[int, ...] = (200,)


class Probe(Struct, frozen=True, forbid_unknown_fields=True):
    """Kubernetes' probe: at most one of http, tcp, redis, exec; none of them means no check at all."""

    http: HttpCheck | None = None
    tcp: bool = False
    redis: bool = False
    exec: tuple[str, ...] = ()
    initial_delay: Seconds = Seconds(0.0)
    period: Seconds = Seconds(10.0)
    timeout: Seconds = Seconds(1.0)
    failure_threshold: Count = 3
    success_threshold: Count = 1


class Recovery(Struct, frozen=True, forbid_unknown_fields=True):
    """What agentd does once systemd has given a unit up (start limit hit)."""

    policy: Literal["backoff", "none"] = "backoff"
    base: Seconds = Seconds(30.0)
    max: Seconds = Seconds(900.0)
    attempts: Count = 5


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """What the switch needs to know of a service with role "model"."""

    slot: str
    served_name: str
    path: str = ""
    """The model's directory; checked in PRECHECK when given."""
    vram: Bytes = Bytes(0)
    """GPU memory it needs to start; 0 when unknown (then only what others hold is looked at)."""
    host_memory: Bytes = Bytes(0)
    api_key_file: str = ""
    """A file with the key alone, or with lines NAME=value (then `api_key_name` chooses)."""
    api_key_name: str = "VLLM_API_KEY"
    drain_timeout: Seconds = Seconds(30.0)
    on_busy: Literal["abort", "refuse"] = "abort"
    stop_timeout: Seconds = Seconds(90.0)
    start_timeout: Seconds = Seconds(60.0)
    ready_timeout: Seconds = Seconds(600.0)
    verify: bool = True
    verify_timeout: Seconds = Seconds(60.0)


class Service(Struct, frozen=True, forbid_unknown_fields=True):
    unit: str
    role: Literal["model", "runtime", "gateway", "store", "generic"] = "generic"
    url: str = ""
    depends_on: tuple[str, ...] = ()
    gate: bool = False
    """Install the `readiness` drop-in, so that systemd itself waits until the service answers."""
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    recovery: Recovery = field(default_factory=Recovery)
    model: Model | None = None


class Slot(Struct, frozen=True, forbid_unknown_fields=True):
    """A set of GPUs on which at most one model is resident."""

    gpus: tuple[int, ...] = (0,)
    default: str = ""
    vram_probe: Literal["auto", "nvml", "none"] = "auto"
    vram_timeout: Seconds = Seconds(60.0)
    vram_stable: Seconds = Seconds(1.0)
    vram_margin: Bytes = Bytes(512 * 1024**2)
    evict: tuple[str, ...] = ()
    """Services with role "runtime" whose loaded models are unloaded before a start."""
    evict_timeout: Seconds = Seconds(30.0)
    cooldown: Seconds = Seconds(30.0)
    cooldown_max: Seconds = Seconds(600.0)
    exclusive: bool = True
    """Install the `exclusive` drop-ins (Conflicts=, After=) on the slot's units."""


class Daemon(Struct, frozen=True, forbid_unknown_fields=True):
    scope: Literal["user", "system"] = "user"
    listen: str = "127.0.0.1:9775"
    """Loopback address of the read-only HTTP surface; "" switches it off."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    bus_timeout: Seconds = Seconds(25.0)
    resync: Seconds = Seconds(60.0)
    """Full re-read of everything, in case a signal was lost."""
    crash_loop_restarts: Count = 3
    crash_loop_window: Seconds = Seconds(300.0)
    event_history: Count = 10000


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration, merged and validated; immutable."""

    daemon: Daemon = field(default_factory=Daemon)
    slots: dict[str, Slot] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)

    def models(self, slot: str) -> tuple[str, ...]:
        """Names of the slot's models, in the order of the configuration."""
        return tuple(n for n, s in self.services.items() if s.model is not None and s.model.slot == slot)
