"""systemd over D-Bus: the UnitControl and UnitQuery ports, for the user's manager and the system's by the same code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentd.adapters.bus import CALL_TIMEOUT, Bus, Signal
from agentd.adapters.bus_transport import bus_address
from agentd.adapters.systemd_jobs import Jobs, Ticket
from agentd.adapters.systemd_link import Link
from agentd.adapters.systemd_props import (
    BUS,
    JOB,
    MANAGER,
    NAME,
    PATH,
    PROPERTIES,
    SERVICE,
    SERVICE_PROPERTIES,
    UNIT,
    UNIT_PROPERTIES,
    brief_state,
    checked_name,
    manager_rule,
    owner_rule,
    unit_path,
    unit_state,
)
from agentd.adapters.systemd_query import manager_properties, transient_body, unit_properties
from agentd.adapters.systemd_watch import Changes, Watches, list_units
from agentd.errors import BusError
from agentd.ports_hardening import TransientProperty
from agentd.types import JobResult, Scope, UnitState

logger = logging.getLogger(__name__)

RELOAD_TIMEOUT = 90.0


class SystemdControl:
    """Call `start_up()` before use and `close()` after. While the bus is away every call raises "bus-down",
    `connected` is False, `problem` says why, and connecting goes on."""

    def __init__(
        self,
        scope: Scope = Scope.USER,
        *,
        address: str = "",
        library: str = "auto",
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        self.scope = scope
        self._timeout = call_timeout
        self._jobs = Jobs()
        self._watches = Watches()
        self._changes = Changes()
        self._owner = ""
        self._reloading = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._stale = False
        self._link = Link(
            address or bus_address(scope),
            prepare=self._prepare,
            on_down=self._down,
            on_signal=self._signal,
            library=library,
        )

    @property
    def connected(self) -> bool:
        """The bus answers to us and the manager is on it."""
        return self._link.connected and bool(self._owner)

    @property
    def reconnects(self) -> int:
        return self._link.reconnects

    @property
    def problem(self) -> str:
        return self._link.problem or ("" if self._owner else f"{NAME} is not on the bus")

    async def start_up(self, patience: float = 2.0) -> None:
        """Returns once connected, or after `patience` seconds: see `connected` and `problem`. A bus that our own
        connection starts (by its socket) knows the manager only some milliseconds later."""
        await self._link.start_up(patience)

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._link.close()

    async def start(self, unit: str) -> Ticket:
        return await self._queue("StartUnit", unit, f"start {unit}")

    async def stop(self, unit: str) -> Ticket:
        return await self._queue("StopUnit", unit, f"stop {unit}")

    async def restart(self, unit: str) -> Ticket:
        return await self._queue("RestartUnit", unit, f"restart {unit}")

    async def show(self, unit: str) -> UnitState:
        path, doing = unit_path(checked_name(unit)), f"show {unit}"
        bus = self._link.bus(doing)
        reads = [bus.properties(NAME, path, UNIT, UNIT_PROPERTIES, timeout=self._timeout, doing=doing)]
        if unit.endswith(".service"):
            reads.append(bus.properties(NAME, path, SERVICE, SERVICE_PROPERTIES, timeout=self._timeout, doing=doing))
        found = await asyncio.gather(*reads)
        return unit_state(unit, found[0], found[1] if len(found) > 1 else {})

    async def list(self, units: Sequence[str]) -> Mapping[str, UnitState]:
        names = tuple(dict.fromkeys(checked_name(unit) for unit in units))
        rows = await list_units(self._link.bus("list units"), names, timeout=self._timeout)
        return {name: brief_state(name, rows[name]) for name in names if name in rows}

    async def properties(self, unit: str) -> Mapping[str, object]:
        return await unit_properties(self._link.bus(f"read the properties of {unit}"), unit, self._timeout)

    async def manager(self) -> Mapping[str, object]:
        return await manager_properties(self._link.bus("read the properties of systemd"), self._timeout)

    async def start_transient(self, unit: str, properties: Sequence[TransientProperty]) -> Ticket:
        """Raises BusError("unit-exists") while a unit of that name is loaded, ("bus-invalid") for a property that this
        systemd does not take."""
        doing = f"start the transient unit {unit}"
        body = transient_body(self._link.bus(doing), unit, properties)
        with self._jobs.queueing():
            (path,) = await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", body, doing)
            return self._jobs.ticket(unit, path)

    async def reset_failed(self, unit: str) -> None:
        await self._call("ResetFailedUnit", "s", [checked_name(unit)], f"reset the failed state of {unit}")

    async def kill(self, unit: str, signal: int) -> None:
        body = [checked_name(unit), "all", signal]
        await self._call("KillUnit", "ssi", body, f"send signal {signal} to {unit}")

    async def reload(self) -> None:
        async with self._reloading:
            await self._call("Reload", "", [], "reload the unit files", timeout=RELOAD_TIMEOUT)

    async def watch(self, units: Sequence[str]) -> None:
        """While the bus is away the set is kept and applied on the next connection."""
        self._watches.units = tuple(dict.fromkeys(checked_name(unit) for unit in units))
        if not self._link.connected:
            return
        try:
            await self._watches.sync(self._link.bus("watch units"))
        except BusError as error:
            if error.kind != "bus-down":
                raise

    def on_change(self, callback: Callable[[str | None], None]) -> None:
        self._changes.listen(callback)

    async def _queue(self, member: str, unit: str, doing: str) -> Ticket:
        checked_name(unit)
        with self._jobs.queueing():
            (path,) = await self._call(member, "ss", [unit, "replace"], doing)
            return self._jobs.ticket(unit, path)

    async def _call(
        self, member: str, signature: str, body: Sequence[Any], doing: str, timeout: float | None = None
    ) -> Sequence[Any]:
        bus = self._link.bus(doing)
        timeout = self._timeout if timeout is None else timeout
        return await bus.call(NAME, PATH, MANAGER, member, signature, body, timeout=timeout, doing=doing)

    async def _prepare(self, bus: Bus) -> None:
        """On a new connection: rules before Subscribe, then everything must be read again."""
        rules = [owner_rule(), *(manager_rule(member) for member in ("JobRemoved", "Reloading"))]
        await asyncio.gather(*(bus.add_match(rule) for rule in rules))
        self._owner = owner = await bus.name_owner(NAME)
        await self._subscribe(bus)
        await self._watches.sync(bus)
        if self._owner != owner:
            raise BusError("manager-gone", f"cannot subscribe to systemd: the owner of {NAME} changed meanwhile")
        self._changes.mark(None)

    async def _subscribe(self, bus: Bus) -> None:
        try:
            await bus.call(NAME, PATH, MANAGER, "Subscribe", timeout=self._timeout, doing="subscribe to systemd")
        except BusError as error:
            if error.kind != "already-subscribed":
                raise

    def _down(self) -> None:
        self._owner = ""
        self._jobs.lose_all()

    def _signal(self, signal: Signal) -> None:
        header = signal.header
        if header.interface == BUS and header.sender == BUS:
            if header.member == "NameOwnerChanged":
                self._owner_changed(signal.body())
        elif header.sender != self._owner:
            return  # anybody may send us a signal that looks like systemd's
        elif header.member == "PropertiesChanged":
            for unit in self._watches.units_at(header.path):
                self._changes.mark(unit)
        elif header.member == "JobRemoved" and not self._jobs.idle:
            _, path, _, result = signal.body()
            self._jobs.removed(path, JobResult.parse(result))
        elif header.member == "Reloading" and signal.body() == [False]:
            self._refresh()

    def _owner_changed(self, body: Sequence[Any]) -> None:
        name, _, owner = body
        if name != NAME:
            return
        self._owner = owner
        logger.info("%s %s", NAME, f"is now {owner}" if owner else "left the bus")
        if owner:
            self._refresh()
        else:
            self._changes.mark(None)

    def _refresh(self) -> None:
        """After a reload or a re-exec, in the background; never two at once, never one forgotten."""
        self._stale = True
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh_until_fresh(), name="systemd-refresh")

    async def _refresh_until_fresh(self) -> None:
        while self._stale:
            self._stale = False
            await self._refresh_once()

    async def _refresh_once(self) -> None:
        if not self._link.connected:
            return  # the next connection reads everything anyway
        try:
            bus = self._link.bus("read the units again")
            await self._subscribe(bus)
            await self._watches.sync(bus)
            await asyncio.gather(*(self._check_job(bus, path) for path in self._jobs.waiting))
        except BusError as error:
            # A dead bus is repaired by the link, and that reads everything again.
            logger.warning("%s", error.message)
        finally:
            self._changes.mark(None)

    async def _check_job(self, bus: Bus, path: str) -> None:
        """A job that is gone without a JobRemoved, because the manager was away, is lost."""
        try:
            await bus.call(NAME, path, PROPERTIES, "Get", "ss", [JOB, "State"], timeout=self._timeout)
        except BusError as error:
            if error.kind == "bus-unknown":
                self._jobs.lose(path)
