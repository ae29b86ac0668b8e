"""All supervised services: signals and pidfds mark them, a pass reads what is marked, the world gets the statuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from agentd.core.schema import Settings
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.managers.units.watch import ServiceWatch, UnitPorts
from agentd.types import ActiveState, Health, ServiceStatus


class UnitsManager:
    """`on_wake()` asks the loop for a pass; `revive(name)` brings a model back through its slot's owner."""

    name = "units"

    def __init__(
        self,
        ports: UnitPorts,
        events: EventLog,
        world: World,
        on_wake: Callable[[], None],
        revive: Callable[[str], bool],
    ) -> None:
        self._ports = ports
        self._events = events
        self._world = world
        self._on_wake = on_wake
        self._revive = revive
        self._settings = Settings()
        self._watches: dict[str, ServiceWatch] = {}
        self._by_unit: dict[str, str] = {}
        self._dirty: set[str] = set()
        self._recoveries: dict[str, asyncio.Task[None]] = {}
        self._last_full = float("-inf")

    async def apply(self, settings: Settings) -> None:
        """Watch what the configuration names; a service that did not change keeps its watch and its history."""
        self._settings = settings
        for name in list(self._watches):
            if settings.services.get(name) != self._watches[name].service:
                self._watches.pop(name).close()
        for name, service in settings.services.items():
            if name not in self._watches:
                self._watches[name] = ServiceWatch(name, service, self._ports, self._publish, self._process_ended)
        self._by_unit = {s.unit: n for n, s in settings.services.items()}
        self._world.keep(set(settings.services), set(settings.slots))
        await self._ports.control.watch([s.unit for s in settings.services.values()])
        self._dirty.update(self._watches)

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
        for name in sorted(marked):
            watch = self._watches.get(name)
            if watch is None:
                continue
            try:
                await watch.refresh()
            except AgentdError:
                self._dirty.add(name)
                raise
            self._judge(watch)
            self._publish(name)
        if full:
            self._last_full = now
            self._world.seen("units")

    # -- what happens to a service ----------------------------------------------------------------------------

    def _publish(self, name: str) -> None:
        watch = self._watches.get(name)
        if watch is None:
            return
        before = self._world.service(name)
        known = {s.name: s.health for s in self._world.services}
        status = watch.status(known)
        self._world.put_service(status)
        if before is None or before.health is not status.health:
            self._told(before, status)
            for other in self._watches.values():
                if name in other.service.depends_on:
                    self._publish(other.name)
        if watch.liveness_failed() and (before is None or before.health is not Health.UNREADY):
            self._not_alive(watch)

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
            text = f"{watch.name} restarted {count} times within {window:.0f} s: {watch.cause or 'no cause known'}"
            self._events.emit("service.crash-loop", watch.name, text)
        kind = failures.news(state)
        if kind:
            self._events.emit(kind, watch.name, f"{watch.name}: {watch.cause}", unit=state.name)
        if state.active_state is ActiveState.FAILED and state.result == "start-limit-hit":
            self._plan_recovery(watch)

    def _plan_recovery(self, watch: ServiceWatch) -> None:
        if watch.name in self._recoveries:
            return
        delay = watch.failures.next_recovery(watch.service.recovery, random.random())
        if delay is None:
            text = f"{watch.name} stays down: systemd gave it up and the recovery policy allows no further try"
            self._events.emit("service.given-up", watch.name, text)
            return
        text = f"systemd gave {watch.name} up; next try in {delay:.0f} s"
        self._events.emit("service.backoff", watch.name, text, seconds=round(delay, 1))
        task = asyncio.ensure_future(self._recover(watch, delay))
        self._recoveries[watch.name] = task
        task.add_done_callback(lambda _: self._recoveries.pop(watch.name, None))

    async def _recover(self, watch: ServiceWatch, delay: float) -> None:
        await self._ports.clock.sleep(delay)
        if watch.state.active_state is not ActiveState.FAILED:
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
        text = f"{watch.name} fails its liveness probe and is restarted"
        self._events.emit("service.liveness-restart", watch.name, text)
        task = asyncio.ensure_future(self._restart(watch))
        self._recoveries[watch.name] = task
        task.add_done_callback(lambda _: self._recoveries.pop(watch.name, None))

    async def _restart(self, watch: ServiceWatch) -> None:
        try:
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
