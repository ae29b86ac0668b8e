"""Which signals we asked the bus for, and which unit a signal is about."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentd.adapters.bus import CALL_TIMEOUT, Bus
from agentd.adapters.systemd_props import MANAGER, NAME, PATH, unit_path, unit_rule
from agentd.errors import BusError

logger = logging.getLogger(__name__)


class Watches:
    """The wanted set of units, and the match rules that one connection has for them.

    An alias has its own path but systemd signals on the path of the unit behind it, so paths are asked for.
    """

    def __init__(self) -> None:
        self.units: tuple[str, ...] = ()
        self._bus: Bus | None = None
        self._paths: dict[str, frozenset[str]] = {}
        self._lock = asyncio.Lock()

    def units_at(self, path: str) -> frozenset[str]:
        return self._paths.get(path, frozenset())

    async def sync(self, bus: Bus) -> None:
        """Make the connection's rules those of the wanted units."""
        async with self._lock:
            if bus is not self._bus:
                self._bus, self._paths = bus, {}
            wanted = await self._resolve(bus, self.units)
            for path in self._paths.keys() - wanted.keys():
                del self._paths[path]
                await bus.remove_match(unit_rule(path))
            await asyncio.gather(*(self._add(bus, path, wanted[path]) for path in wanted))

    async def _add(self, bus: Bus, path: str, units: frozenset[str]) -> None:
        known = path in self._paths
        self._paths[path] = units
        if known:
            return
        try:
            await bus.add_match(unit_rule(path))
        except BusError:
            self._paths.pop(path, None)
            raise

    async def _resolve(self, bus: Bus, units: Sequence[str]) -> Mapping[str, frozenset[str]]:
        rows = await list_units(bus, units)
        found: dict[str, set[str]] = {}
        for unit in units:
            row = rows.get(unit)
            found.setdefault(row[6] if row else unit_path(unit), set()).add(unit)
        return {path: frozenset(names) for path, names in found.items()}


async def list_units(bus: Bus, units: Sequence[str], timeout: float = CALL_TIMEOUT) -> dict[str, Sequence[Any]]:
    """ListUnitsByNames by the names that were asked for (systemd answers with the names behind aliases)."""
    if not units:
        return {}
    target = (NAME, PATH, MANAGER, "ListUnitsByNames")
    (rows,) = await bus.call(*target, "as", [list(units)], timeout=timeout, doing="list units")
    if len(rows) == len(units):
        return dict(zip(units, rows, strict=True))
    return {row[0]: row for row in rows}


class Changes:
    """Tells listeners which units changed: once per unit and turn of the loop, however many signals came."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[str | None], None]] = []
        self._dirty: dict[str | None, None] = {}

    def listen(self, callback: Callable[[str | None], None]) -> None:
        self._listeners.append(callback)

    def mark(self, unit: str | None) -> None:
        """`None`: everything must be read again, which makes single units superfluous."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty[unit] = None

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for unit in (None,) if None in dirty else tuple(dirty):
            for callback in self._listeners:
                try:
                    callback(unit)
                except Exception:
                    logger.exception("a listener of unit changes failed on %s", unit or "the resync")
