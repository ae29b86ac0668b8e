"""One service restarted and watched until it is certain that it came up, or why it did not.

A finished start job proves little: systemd reports the start of a Type=simple service before the sandbox is built and
the program executed. So a service counts as up once its main process has executed its program, answers (by the caller's
hook), and stayed for a moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentd.core.exit_status import Diagnosis, diagnose
from agentd.core.explain import CLD_EXITED, explain
from agentd.core.unitfile import Directive
from agentd.errors import AgentdError, BusError
from agentd.ports import Clock, JournalReader, Kernel, UnitControl
from agentd.ports_hardening import UnitQuery
from agentd.types import ActiveState, JobResult, UnitState

log = logging.getLogger(__name__)

Ready = Callable[[str, float], Awaitable[None]]
"""(unit, seconds): returns when the unit answers, raises AgentdError when it does not in time."""
Restart = Callable[[str], Awaitable[None]]
"""Restart (or start) a unit and return when its job is done; raises AgentdError when that failed."""

Suspects = Sequence[Sequence[Directive]]
"""Directives that may be the cause: the likely ones first, then more."""

SETTLE = 1.0
"""Seconds that a service has to stay up after its start."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at a unit of which no change is announced."""
DEFAULT_TIMEOUT = 90.0
LONGEST_TIMEOUT = 3600.0
MARGIN = 10.0
"""Seconds for a job beyond what the unit itself allows."""
JOURNAL_LINES = 40
JOURNAL_TRIES = 5
"""journald may be some tenths of a second behind."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`sentence` is how it ended; `diagnosis` what of the drop-ins may be the cause."""

    sentence: str
    diagnosis: Diagnosis = field(default_factory=Diagnosis)

    def __str__(self) -> str:
        return str(self.diagnosis) if self.diagnosis.name else f"{self.sentence}{self._suspects}"

    @property
    def _suspects(self) -> str:
        found = self.diagnosis.directives
        return f"; possible causes are {', '.join(f'{d.key}={d.value} ({d.place})' for d in found)}" if found else ""


class Restarter:
    """`restart`: how a unit is restarted, where that is somebody else's affair (a slot's models); by default through
    systemd alone. Without `kernel`, that the program was executed is not looked at; without `journal`, causes are told
    by the exit status alone."""

    def __init__(
        self,
        control: UnitControl,
        clock: Clock,
        *,
        journal: JournalReader | None = None,
        kernel: Kernel | None = None,
        query: UnitQuery | None = None,
        restart: Restart | None = None,
        settle: float = SETTLE,
    ) -> None:
        self._control = control
        self._clock = clock
        self._journal = journal
        self._kernel = kernel
        self._query = query
        self._restart = restart or self._by_systemd
        self._settle = settle
        self._waiting: dict[str, asyncio.Event] = {}
        control.on_change(self._changed)

    async def running(self, unit: str) -> bool:
        return (await self._control.show(unit)).active_state.up

    async def looks_failed(self, unit: str) -> bool:
        """It is down, or on its way round a crash loop."""
        return _down(await self._control.show(unit))

    async def restarted(self, unit: str, ready: Ready | None, suspects: Suspects = ()) -> Failure | None:
        """None when it came up. BusError when systemd cannot be asked any more: then nothing is known."""
        before = await self._control.show(unit)
        try:
            await self._restart(unit)
        except BusError:
            raise
        except AgentdError as error:
            return await self._failure(error.message, suspects, await self._control.show(unit))
        return await self._watched(unit, before, ready, suspects)

    async def brought_back(self, unit: str, ready: Ready | None) -> Failure | None:
        """Started anew after a failure, with its start limit forgotten."""
        try:
            await self._control.reset_failed(unit)
        except AgentdError as error:
            log.debug("cannot reset %s: %s", unit, error.message)
        return await self.restarted(unit, ready)

    # -- watching ---------------------------------------------------------------------------------------------

    async def _watched(self, unit: str, before: UnitState, ready: Ready | None, suspects: Suspects) -> Failure | None:
        start, _ = await self._timeouts(unit)
        before = replace(await self._control.show(unit), restarts=before.restarts if _down(before) else 0)
        ended = asyncio.ensure_future(self._ended(unit, before))
        up = asyncio.ensure_future(self._up(unit, ready, start))
        try:
            await asyncio.wait((ended, up), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                state = ended.result()
                return await self._failure(explain(state, ()), suspects, state)
            try:
                await up
            except BusError:
                raise
            except AgentdError as error:
                return await self._failure(error.message, suspects, await self._control.show(unit))
            state = await self._control.show(unit)
            return await self._failure(explain(state, ()), suspects, state) if _died(state, before) else None
        finally:
            await _cancelled(ended, up)

    async def _ended(self, unit: str, before: UnitState) -> UnitState:
        """The state once the unit's main process has ended, or its start was given up."""
        changed = self._waiting[unit] = asyncio.Event()
        try:
            while True:
                changed.clear()
                state = await self._control.show(unit)
                if _died(state, before):
                    return state
                try:
                    async with asyncio.timeout(LOOK_AGAIN):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting.pop(unit, None)

    async def _up(self, unit: str, ready: Ready | None, timeout: float) -> None:
        await self._executed(unit, timeout)
        settled = asyncio.ensure_future(self._clock.sleep(self._settle))
        try:
            if ready is not None:
                await ready(unit, timeout)
            await settled
        finally:
            await _cancelled(settled)

    async def _executed(self, unit: str, timeout: float) -> None:
        """Until the main process has executed its program: before, systemd calls it "(NAME)"."""
        if self._kernel is None:
            return
        deadline = self._clock.monotonic() + timeout
        pause = 0.02
        while self._clock.monotonic() < deadline:
            state = await self._control.show(unit)
            if not state.main_pid or not self._kernel.comm(state.main_pid).startswith("("):
                return
            await self._clock.sleep(pause)
            pause = min(1.0, pause * 1.5)
        raise AgentdError("not-executed", f"{unit} did not execute its program within {timeout:g} s")

    def _changed(self, unit: str | None) -> None:
        for name, event in self._waiting.items():
            if unit in (None, name):
                event.set()

    # -- systemd ----------------------------------------------------------------------------------------------

    async def _by_systemd(self, unit: str) -> None:
        start, stop = await self._timeouts(unit)
        job = await self._control.restart(unit)
        result = await job.wait(start + stop + MARGIN)
        if result is JobResult.LOST:
            raise BusError("bus-down", f"cannot tell whether {unit} was restarted: the bus went away")
        if result is not JobResult.DONE:
            raise AgentdError("unit-restart", explain(await self._control.show(unit), (), result))

    async def _timeouts(self, unit: str) -> tuple[float, float]:
        """(seconds that the unit may take to start, to stop)."""
        try:
            found = await self._query.properties(unit) if self._query is not None else {}
        except AgentdError:
            found = {}
        return _seconds(found.get("TimeoutStartUSec")), _seconds(found.get("TimeoutStopUSec"))

    async def _failure(self, sentence: str, suspects: Suspects, state: UnitState) -> Failure:
        lines: tuple[str, ...] = ()
        found = Diagnosis()
        for turn in range(JOURNAL_TRIES):
            lines = await self._lines(state)
            found = _diagnosis(state, lines, suspects)
            if self._journal is None or found.line or (found.directives and not found.status):
                break
            if not found.status and turn >= JOURNAL_TRIES // 2:
                break
            await self._clock.sleep(0.1 * (turn + 1))
        if not state.active_state.up or _down(state):
            sentence = explain(state, lines)
        return Failure(sentence, found)

    async def _lines(self, state: UnitState) -> tuple[str, ...]:
        if self._journal is None:
            return ()
        return await self._journal.tail(
            state.name, lines=JOURNAL_LINES, invocation=state.invocation_id, pid=state.exec_pid
        )


def _diagnosis(state: UnitState, lines: Sequence[str], suspects: Suspects) -> Diagnosis:
    status = state.exec_status if state.exec_code == CLD_EXITED else 0
    signal = state.exec_status if state.exec_code not in (0, CLD_EXITED) else 0
    found = Diagnosis()
    for some in suspects or ((),):
        found = diagnose(status, lines, some, signal=signal, result=state.result)
        if found.directives:
            break
    return found


def _died(state: UnitState, before: UnitState) -> bool:
    """It is down, or up again after it was. `before`: right after its start."""
    again = state.restarts > before.restarts or state.invocation_id != before.invocation_id
    return _down(state) or again


def _down(state: UnitState) -> bool:
    return state.active_state in (ActiveState.INACTIVE, ActiveState.FAILED) or state.sub_state.startswith(
        "auto-restart"
    )


def _seconds(value: object) -> float:
    if not isinstance(value, int) or value <= 0:
        return DEFAULT_TIMEOUT
    return min(value / 1e6, LONGEST_TIMEOUT)


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
