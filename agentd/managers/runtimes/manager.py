"""Other users of the GPU (Ollama): what they have loaded, and what they load while a model of ours is resident.

Seen and told, never fought: nothing here unloads anything. That is done before a start (managers/models/eviction.py).
"""

from __future__ import annotations

from agentd.core.quantities import told_bytes
from agentd.core.schema import Service, Settings
from agentd.core.switch import State
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.findings import Finding
from agentd.managers.runtimes import off_gpu
from agentd.managers.runtimes.watch import RUNNING, RuntimeWatch, Seen
from agentd.ports import Clock, Kernel, Prober
from agentd.types import SlotStatus


class RuntimesManager:
    """A watch for each service with role "runtime"; the World has their last answers."""

    name = "runtimes"

    def __init__(
        self, prober: Prober, kernel: Kernel, clock: Clock, events: EventLog, world: World, counters: Counters
    ) -> None:
        self._prober = prober
        self._kernel = kernel
        self._clock = clock
        self._events = events
        self._world = world
        self._counters = counters
        self._settings = Settings()
        self._watches: dict[str, RuntimeWatch] = {}
        self._findings: dict[str, Finding] = {}
        self._phases: dict[str, str] = {}
        """Slots with a change under way that has come to EVICT -> its phase."""
        world.on_slot.append(self._slot_changed)

    async def apply(self, settings: Settings) -> None:
        """A runtime whose configuration did not change keeps its watch."""
        self._settings = settings
        wanted = {n: s for n, s in settings.services.items() if s.role == "runtime" and s.enabled}
        for name in list(self._watches):
            if wanted.get(name) != self._watches[name].service:
                self._findings.pop(name, None)
                await self._watches.pop(name).close()
        self._world.keep_runtimes(set(wanted))
        for name, service in wanted.items():
            if name not in self._watches:
                watch = RuntimeWatch(name, service, self._prober, self._clock, self._looked)
                self._watches[name] = watch
                self._world.put_runtime(watch.status)
        await self.ensure()

    async def ensure(self) -> None:
        """Take over what the supervision knows of their units; the watches ask by themselves."""
        for name, watch in self._watches.items():
            if watch.service.own_unit:
                status = self._world.service(name)
                watch.see(Seen(status is not None and status.active_state in RUNNING, status.main_pid if status else 0))
            self._judge(watch)

    def findings(self) -> tuple[Finding, ...]:
        """Of those that are to stay on the CPU, as the last look at each found it."""
        return tuple(self._findings[name] for name in self._watches if name in self._findings)

    async def close(self) -> None:
        for watch in self._watches.values():
            await watch.close()

    # -- what a runtime loads while a model is resident ---------------------------------------------------------

    def _looked(self, watch: RuntimeWatch) -> None:
        self._world.put_runtime(watch.status)
        self._judge(watch)
        if watch.status.reachable is False:
            return  # What it had may be there still: only an answer tells what is new.
        slots, now = self._slots(watch), watch.on_gpu()
        resident = next((slot for slot in slots if slot.state == "active" and slot.resident), None)
        if resident is not None and watch.known is not None:
            for model in sorted(now - watch.known):
                self._reloaded(watch, model, resident)
        elif watch.known is not None and any(slot.change is not None for slot in slots):
            watch.known &= now  # What it loads meanwhile is news once the change is over.
            return
        watch.known = now

    def _judge(self, watch: RuntimeWatch) -> None:
        if watch.service.runtime.policy == "cpu_only":
            self._findings[watch.name] = off_gpu.finding(watch, self._kernel)

    def _slots(self, watch: RuntimeWatch) -> list[SlotStatus]:
        """Those that it has to leave for a start."""
        if watch.service.runtime.policy == "ignore":
            return []
        names = [name for name, slot in self._settings.slots.items() if watch.name in slot.evict]
        return [status for status in map(self._world.slot, names) if status is not None]

    def _slot_changed(self, status: SlotStatus) -> None:
        """From its eviction on (on the way back there may be another) each phase of a change is looked at: what is away
        in one of them is news when it is back afterwards, what could not be evicted is none."""
        before = self._phases.get(status.name)
        if status.change is None:
            self._phases.pop(status.name, None)
        elif before is not None or status.state == State.EVICT:
            self._phases[status.name] = status.state
        if before is None or (before == status.state and status.change is not None):
            return
        slot = self._settings.slots.get(status.name)
        for watch in self._watches.values():
            if slot is not None and watch.name in slot.evict:
                watch.hurry()

    def _reloaded(self, watch: RuntimeWatch, model: str, slot: SlotStatus) -> None:
        size = next(m.size_vram for m in watch.status.models if m.name == model)
        text = f"{watch.name} has loaded {model} ({told_bytes(size)} of GPU memory) while {slot.resident} is resident"
        self._events.emit("runtime.reloaded", watch.name, text, model=model, bytes=size, slot=slot.name)
        self._counters.add("agentd_runtime_reload", watch.name)


_STARTED_BY = {"system": "the system's manager: sudo systemctl VERB UNIT", "container": "its container's own tools"}


def refuse_outside(name: str, service: Service, verb: str) -> None:
    """Raises AgentdError when the service's unit is not of agentd's manager."""
    if service.own_unit:
        return
    managed = service.runtime.managed
    unit = service.unit.removesuffix(".service")
    hint = "use " + _STARTED_BY[managed].replace("VERB", verb).replace("UNIT", unit)
    what = "a unit of the system" if managed == "system" else "a container"
    raise AgentdError("not-managed", f'cannot {verb} {name}: it is {what} (managed = "{managed}")', hint=hint)
