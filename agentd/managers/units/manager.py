"""All supervised services: signals and pidfds mark them, a pass reads what is marked, the world gets the statuses."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine

from agentd.core.schema import Settings
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.managers.units.failures import config_error, given_up
from agentd.managers.units.watch import ServiceWatch, UnitPorts
from agentd.types import Health, ServiceStatus, SlotStatus

log = logging.getLogger(__name__)


class UnitsManager:
    """`on_wake()` asks the loop for a pass. A model is acted upon through its slot's owner alone: `revive(name)` brings
    one back that systemd has given up, `restart_model(name)` restarts the resident one. `check_free(unit)` raises
    AgentdError while the unit must not be stopped."""

    name = "units"

    def __init__(
        self,
        ports: UnitPorts,
        events: EventLog,
        world: World,
        on_wake: Callable[[], None],
        revive: Callable[[str], bool],
        restart_model: Callable[[str], Awaitable[object]],
        check_free: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ports = ports
        self._events = events
        self._world = world
        self._on_wake = on_wake
        self._revive = revive
        self._restart_model = restart_model
        self._check_free = check_free
        self._settings = Settings()
        self._watches: dict[str, ServiceWatch] = {}
        self._by_unit: dict[str, str] = {}
        self._dirty: set[str] = set()
        self._recoveries: dict[str, asyncio.Task[None]] = {}
        self._last_full = float("-inf")
        world.on_slot.append(self._slot_changed)

    async def apply(self, settings: Settings) -> None:
        """Watch what the configuration names; a service that did not change keeps its watch and its history."""
        self._settings = settings
        for name in list(self._watches):
            if settings.services.get(name) != self._watches[name].service:
                self._watches.pop(name).close()
                if name in self._recoveries:
                    self._recoveries.pop(name).cancel()
        for name, service in settings.services.items():
            if name not in self._watches:
                self._watches[name] = ServiceWatch(name, service, self._ports, self._publish, self._process_ended)
        self._by_unit = {s.unit: n for n, s in settings.services.items() if s.own_unit}
        self._world.keep(set(settings.services), set(settings.slots))
        self._dirty.update(self._watches)
        await self._ports.control.watch([s.unit for s in settings.services.values() if s.own_unit])

    def unit_changed(self, unit: str | None) -> None:
        if unit is None:
            self._dirty.update(self._watches)
        elif unit in self._by_unit:
            self._dirty.add(self._by_unit[unit])
        else:
            return
        self._on_wake()

    def hurry(self, name: str) -> None:
        if name in self._watches:
            self._watches[name].hurry()

    async def ensure(self) -> None:
        """Read what is marked; everything, when nothing was read for `daemon.resync`."""
        now = self._ports.clock.monotonic()
        if now - self._last_full >= self._settings.daemon.resync:
            self._dirty.update(self._watches)
        full = self._dirty >= set(self._watches)
        marked, self._dirty = self._dirty, set()
        failure: AgentdError | None = None
        for name in sorted(marked):
            watch = self._watches.get(name)
            if watch is None:
                continue
            try:
                await watch.refresh()
            except AgentdError as error:
                # Marked again, and so are all others when there is no systemd to ask: no pass of timeouts.
                failure = error
                self._dirty.add(name)
                if error.kind in ("bus-down", "bus-timeout"):
                    self._dirty |= marked
                    break
                continue
            self._judge(watch)
            self._publish(name)
        if failure is not None:
            raise failure
        if full:
            self._last_full = now
            self._world.seen("units")

    # -- what happens to a service ----------------------------------------------------------------------------

    def _publish(self, name: str) -> None:
        watch = self._watches.get(name)
        if watch is None or not watch.observed:  # Not read yet: systemd has not said that there is no such unit.
            return
        before = self._world.service(name)
        known = {s.name: s.health for s in self._world.services if s.enabled}
        status = self._asleep(watch, watch.status(known))
        now, long_enough = self._ports.clock.monotonic(), self._settings.daemon.crash_loop_window
        watch.failures.note_health(ready=status.health is Health.READY, now=now, long_enough=long_enough)
        self._world.put_service(status)
        if before is None or before.health is not status.health:
            if not watch.process_ended:  # How it ended is told when systemd has said it, some milliseconds later.
                self._told(before, status)
            for other in self._watches.values():
                if name in other.service.depends_on:
                    self._publish(other.name)
        if watch.newly_not_alive():
            self._not_alive(watch)

    def _slot_changed(self, slot: SlotStatus) -> None:
        """A model fell asleep or woke: what its slot says of it counts at once, and beside its probes."""
        asleep = {name for name in slot.models if name in slot.sleeping}
        for name in slot.models:
            status = self._world.service(name)
            if status is not None and (status.health is Health.ASLEEP) != (name in asleep):
                self._publish(name)

    def _asleep(self, watch: ServiceWatch, status: ServiceStatus) -> ServiceStatus:
        """A sleeping server answers its probes as one that works."""
        slot = self._world.slot(watch.service.model.slot) if watch.service.model is not None else None
        if slot is None or watch.name not in slot.sleeping or status.health is not Health.READY:
            return status
        return dataclasses.replace(status, health=Health.ASLEEP)

    def _told(self, before: ServiceStatus | None, status: ServiceStatus) -> None:
        if before is None and status.health in (Health.STOPPED, Health.UNKNOWN):
            return
        why = f": {status.cause}" if status.cause else ""
        self._events.emit(
            "service.health", status.name, f"{status.name} {_verb(status.health)}{why}", health=status.health.value,
            before=before.health.value if before is not None else None,
        )  # fmt: skip

    def _process_ended(self, name: str, pid: int) -> None:
        """Seen by pidfd: tell at once, let systemd's account follow."""
        self._publish(name)
        self._events.emit("service.process-ended", name, f"main process {pid} of {name} has ended")
        self._dirty.add(name)
        self._on_wake()

    def _judge(self, watch: ServiceWatch) -> None:
        state, failures = watch.state, watch.failures
        if failures.note_restarts(state, self._ports.clock.monotonic(), self._settings.daemon):
            count, window = len(failures.restart_times), self._settings.daemon.crash_loop_window
            text = f"{watch.name} restarted {count} times within {window:.0f} s: {watch.last_cause or 'no cause known'}"
            self._events.emit("service.crash-loop", watch.name, text)
        kind = failures.news(state, watch.service.role)
        if kind:
            self._events.emit(kind, watch.name, f"{watch.name}: {watch.cause}", unit=state.name)
        if given_up(state) and self._wanted(watch):
            self._plan_recovery(watch)

    def _wanted(self, watch: ServiceWatch) -> bool:
        """A model that failed while another one took its slot stays down; that was decided elsewhere. So does what
        cannot use its configuration."""
        if not watch.service.enabled or config_error(watch.state, watch.service.role):
            return False
        if watch.service.model is None:
            return True
        slot = self._world.slot(watch.service.model.slot)
        return slot is not None and slot.resident in (None, watch.name) and slot.change is None

    def _plan_recovery(self, watch: ServiceWatch) -> None:
        if watch.name in self._recoveries:
            return
        delay = watch.failures.next_recovery(watch.service.recovery, random.random())
        if delay is None:
            if not watch.failures.exhausted:
                watch.failures.exhausted = True
                text = f"{watch.name} stays down: systemd gave it up and the recovery policy allows no further try"
                self._events.emit("service.given-up", watch.name, text)
            return
        text = f"systemd gave {watch.name} up; next try in {delay:.3g} s"
        self._events.emit("service.backoff", watch.name, text, seconds=round(delay, 1))
        self._begin(watch, self._recover(watch, delay))

    def _begin(self, watch: ServiceWatch, work: Coroutine[None, None, None]) -> None:
        """One recovery of a service at a time."""
        task = self._recoveries[watch.name] = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: self._ended(watch.name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._recoveries.get(name) is task:
            del self._recoveries[name]
        if not task.cancelled() and task.exception() is not None:
            log.error("recovery.internal", exc_info=task.exception(), extra={"data": {"service": name}})

    async def _recover(self, watch: ServiceWatch, delay: float) -> None:
        await self._ports.clock.sleep(delay)
        if not given_up(watch.state):
            return
        try:
            if watch.service.model is not None:
                self._revive(watch.name)
                return
            await self._ports.control.reset_failed(watch.service.unit)
            await self._ports.control.start(watch.service.unit)
        except AgentdError as error:
            self._events.emit("service.recovery-failed", watch.name, error.message)

    def _not_alive(self, watch: ServiceWatch) -> None:
        """Only a liveness probe that the user wrote restarts anything: a busy model is slow, not dead."""
        if watch.service.on_liveness != "restart" or watch.name in self._recoveries:
            return
        slot = self._world.slot(watch.service.model.slot) if watch.service.model is not None else None
        if slot is not None and watch.name in slot.sleeping:
            return  # A wake, or the end of it, is the slot's own business.
        text = f"{watch.name} fails its liveness probe and is restarted"
        self._events.emit("service.liveness-restart", watch.name, text)
        self._begin(watch, self._restart(watch))

    async def _restart(self, watch: ServiceWatch) -> None:
        try:
            if watch.service.model is not None:
                await self._restart_model(watch.name)
            else:
                self._check_free(watch.service.unit)
                await self._ports.control.restart(watch.service.unit)
        except AgentdError as error:
            self._events.emit("service.recovery-failed", watch.name, error.message)

    async def close(self) -> None:
        for task in self._recoveries.values():
            task.cancel()
        for watch in self._watches.values():
            watch.close()


def _verb(health: Health) -> str:
    return "has failed" if health is Health.FAILED else f"is {health.value}"
