"""systemd as a phase under way asks it: a bus that is away for a moment is waited for, not taken for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from agentd.errors import AgentdError
from agentd.ports import Job, UnitControl
from agentd.types import UnitState

T = TypeVar("T")

AWAY = frozenset({"bus-down", "bus-timeout", "manager-gone"})
PATIENCE = 60.0
"""Seconds at most; the phase's own deadline is usually shorter."""
PAUSE = 0.05


class PatientControl:
    """The UnitControl port. Every call may be repeated safely: systemd's jobs and questions are idempotent."""

    def __init__(self, control: UnitControl) -> None:
        self._control = control

    @property
    def connected(self) -> bool:
        return self._control.connected

    async def start(self, unit: str) -> Job:
        return await _patiently(lambda: self._control.start(unit))

    async def stop(self, unit: str) -> Job:
        return await _patiently(lambda: self._control.stop(unit))

    async def restart(self, unit: str) -> Job:
        return await _patiently(lambda: self._control.restart(unit))

    async def show(self, unit: str) -> UnitState:
        return await _patiently(lambda: self._control.show(unit))

    async def list(self, units: Sequence[str]) -> Mapping[str, UnitState]:
        return await _patiently(lambda: self._control.list(units))

    async def reset_failed(self, unit: str) -> None:
        await _patiently(lambda: self._control.reset_failed(unit))

    async def kill(self, unit: str, signal: int) -> None:
        await _patiently(lambda: self._control.kill(unit, signal))

    async def reload(self) -> None:
        await _patiently(self._control.reload)

    async def watch(self, units: Sequence[str]) -> None:
        await self._control.watch(units)

    def on_change(self, callback: Callable[[str | None], None]) -> None:
        self._control.on_change(callback)


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while True:
        try:
            return await call()
        except AgentdError as error:
            if error.kind not in AWAY or loop.time() >= until:
                raise
        await asyncio.sleep(PAUSE)
