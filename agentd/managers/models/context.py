"""What the phases of a switch work with: the slot's models, the ports, and the change under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from agentd.core.addresses import split_http_socket
from agentd.core.ollama import PROGRAMS
from agentd.core.schema import Model, Slot
from agentd.core.schema import Runtime as RuntimeSpec
from agentd.engine.counters import Counters
from agentd.engine.runner import Run
from agentd.managers.models.facts import FactsBook
from agentd.managers.models.sleepers import Sleepers
from agentd.ports import Clock, Files, Gpus, JournalReader, Kernel, Prober, UnitControl
from agentd.ports_models import ModelFiles
from agentd.types import JobResult, UnitState


def port_of(url: str) -> int:
    """Of a URL with a host: the one it names, or the scheme's own."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True, slots=True)
class ModelUnit:
    """A model of the slot: its name in our configuration, its unit, where it answers."""

    name: str
    unit: str
    url: str
    spec: Model
    off: str = ""
    """Why it may not be resident though it is configured, "" when it may: the profile of use switches it off."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def socket(self) -> str:
        """The unix socket that it answers on; "" when it has a port."""
        found = split_http_socket(self.url)
        return found[0] if found is not None else ""

    @property
    def port(self) -> int:
        """0 when it answers on a socket."""
        return 0 if self.socket else port_of(self.url)


@dataclass(frozen=True, slots=True)
class Runtime:
    """Another user of the GPU whose models can be unloaded by its API (Ollama)."""

    unit: str
    url: str
    spec: RuntimeSpec

    def owns(self, kernel: Kernel, pid: int) -> bool:
        """By the unit that holds the process; a container has none of a known name, there its program's name counts."""
        if kernel.unit_of(pid) == self.unit:
            return True
        return self.spec.managed == "container" and kernel.comm(pid).startswith(PROGRAMS)


@dataclass(frozen=True, slots=True)
class Busy:
    """Requests in flight; None means that the server did not say, which is not zero."""

    requests: int | None
    reason: str = ""


class Tell(Protocol):
    def __call__(self, kind: str, subject: str, message: str, **data: str | float | None) -> object: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world, as one argument."""

    control: UnitControl
    kernel: Kernel
    gpus: Gpus
    prober: Prober
    journal: JournalReader
    files: Files
    clock: Clock
    weights: ModelFiles


@dataclass(slots=True)
class SlotContext:
    """Replaced as a whole when the configuration changes; never mutated by a phase."""

    name: str
    slot: Slot
    models: Mapping[str, ModelUnit]
    runtimes: Mapping[str, Runtime]
    """By service name: what `slot.evict` names."""
    ports: Ports
    wakes: Wakes
    facts: FactsBook
    counters: Counters
    tell: Tell
    """Emits an event."""
    sleepers: Sleepers = field(default_factory=Sleepers)
    neighbours: Mapping[str, str] = field(default_factory=dict)
    """Unit of another slot's model -> what a person calls it: "qwen of slot big"."""

    @property
    def sleeping(self) -> tuple[str, ...]:
        """Models that a switch left asleep, as far as is known without asking them; longest asleep first."""
        return tuple(name for name in self.sleepers.levels if name in self.models)

    async def briefs(self) -> Mapping[str, UnitState]:
        """Model name -> what systemd says of its unit now (load, active, sub only)."""
        by_unit = await self.ports.control.list([m.unit for m in self.models.values()])
        return {name: by_unit.get(m.unit, UnitState(m.unit)) for name, m in self.models.items()}

    async def up(self) -> tuple[str, ...]:
        """Names of the models whose units are up or on their way, in the order of the configuration."""
        states = await self.briefs()
        return tuple(name for name in self.models if states[name].active_state.up)


class Wakes:
    """Lets a phase await "something changed about this unit" instead of polling."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    def wake(self, unit: str | None) -> None:
        for name, events in self._events.items():
            if unit is None or unit == name:
                for event in events:
                    event.set()

    def register(self, unit: str) -> asyncio.Event:
        event = asyncio.Event()
        self._events.setdefault(unit, set()).add(event)
        return event

    def unregister(self, unit: str, event: asyncio.Event) -> None:
        self._events.get(unit, set()).discard(event)


@dataclass(slots=True)
class SwitchRun(Run):
    """A run with what the phases learn on the way."""

    target: ModelUnit | None = None
    previous: ModelUnit | None = None
    drain: float = 30.0
    on_busy: str = "abort"
    rollback: bool = True
    lease: float | None = None
    """Seconds for which the slot is lent out once it is free."""
    cut_off: bool = False
    """Requests of the previous model may be in flight, and are not waited for any more."""
    counted: tuple[float, Busy] | None = None
    """Requests in flight on the previous model, and the monotonic second of that."""
    gated: bool = False
    """/pause was sent to the previous model and must be undone when it stays."""
    previous_pids: frozenset[int] = frozenset()
    unlisted: Mapping[int, int] | None = None
    """Per GPU: memory that no listed process held before anything was stopped; None when nobody looked."""
    target_pid: int = 0
    target_cgroup: str = ""
    target_pids: frozenset[int] = frozenset()
    start_job: asyncio.Task[JobResult] | None = None
    adopted: str = ""
    retried: set[str] = field(default_factory=set)
    """Models whose start has been tried a second time, for a reason that passes by itself."""
    slept: int = 0
    """Level at which this change put the previous model to sleep; 0: it was stopped."""
    found_up: bool = False
    """START found that somebody else had started the target already."""
    woken: bool = False
    """The target came up by a wake, and has been proven to say what it said before."""
    only: str = ""
    """A sleeper that alone is to be stopped; the resident model is not touched."""
    level: int = 0
    """The level that a sleep-check is to try; 0: the model's own."""
    evictions: int = 0
    """How often the start was put off because a runtime had loaded a model again."""
    park: Callable[[str], Awaitable[None]] | None = None
    """Notes durably that this service, which is about to be stopped, must run again at the end."""
    previous_tree: Mapping[int, int] = field(default_factory=dict)
    """Pid -> start time of what belonged to the previous model before anything was stopped."""
    target_tree: Mapping[int, int] = field(default_factory=dict)
    """The same of the target, taken before this change stopped it again."""
    ended: dict[int, int] = field(default_factory=dict)
    """Pid -> start time of orphans that were killed."""
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> argv of its unit, as PRECHECK read it."""


async def wait_any(wake: asyncio.Event, seconds: float) -> None:
    """Until the event or the time, whichever is first; the event is cleared."""
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        pass
    wake.clear()


async def poll_until(
    condition: Callable[[], Awaitable[bool]], wake: asyncio.Event, *, first: float = 0.005, most: float = 0.25
) -> None:
    """Ask again after a wake or a growing pause, until the condition holds; the caller sets the deadline."""
    pause = first
    while not await condition():
        await wait_any(wake, pause)
        pause = min(most, pause * 1.5)
