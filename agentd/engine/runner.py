"""Drives one change through the states of core.switch: journal, deadline, cancel, history.

The phases' effects are handed in; this file knows no GPU, no unit and no HTTP.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from agentd.core.switch import MUTATING, ON_DEADLINE, RESTING, TRANSITIONS, UNINTERRUPTED, UNTOUCHED, Signal, State
from agentd.core.switch import advance as next_state
from agentd.errors import AgentdError
from agentd.ports import Clock, Store
from agentd.types import Change, PhaseRecord

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that a cancelled phase has to let go."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a phase reports: its signal, a line for the history, and the cause when it failed."""

    signal: Signal
    detail: str = ""
    cause: str = ""


@dataclass(slots=True)
class Run:
    """A change under way; owned by the slot's task alone."""

    change: Change
    before: State
    state: State
    path: list[tuple[State, Signal]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    cause: str = ""
    """Why the change left its way forward; the first cause wins."""
    listener: Callable[[Change], None] | None = field(default=None, repr=False)

    def tell(self, detail: str) -> None:
        """What the running phase is doing, until its end says what it did. Shown, not journaled; whoever tells keeps
        it to a few times a second."""
        last = self.change.phases[-1] if self.change.phases else None
        if last is None or last.seconds is not None or last.detail == detail:
            return
        self.change = dataclasses.replace(
            self.change, phases=(*self.change.phases[:-1], dataclasses.replace(last, detail=detail))
        )
        if self.listener is not None:
            self.listener(self.change)


R = TypeVar("R", bound=Run, contravariant=True)


class Phases(Protocol[R]):
    async def perform(self, state: State, run: R) -> Step: ...

    def deadline(self, state: State, run: R) -> float:
        """Seconds that the phase may take at most."""
        ...

    async def at_rest(self, run: R) -> None:
        """The last act before the end is journaled and told: what must be true by then. Must not raise."""
        ...

    def verdict(self, run: R) -> Change:
        """The finished change: outcome, exit code, message."""
        ...


class Runner(Generic[R]):
    """`on_update(change)` is called at every step, before and after each phase."""

    def __init__(self, store: Store, clock: Clock, phases: Phases[R], on_update: Callable[[Change], None]) -> None:
        self._store = store
        self._clock = clock
        self._phases = phases
        self._on_update = on_update
        self._writes: set[asyncio.Task[None]] = set()

    async def drive(self, run: R) -> None:
        """Run until a resting state is reached. Raises AgentdError only when nothing was touched yet."""
        run.listener = self._on_update
        while run.state not in RESTING:
            await self._enter(run)
            step = await self._perform(run)
            self._leave(run, step)
        run.change = dataclasses.replace(self._phases.verdict(run), finished=self._clock.time(), phase=run.state.value)
        await self._phases.at_rest(run)
        await self._write(run.change)
        self._on_update(run.change)

    async def _enter(self, run: R) -> None:
        record = PhaseRecord(run.state.value, self._clock.time())
        run.change = dataclasses.replace(run.change, phase=run.state.value, phases=(*run.change.phases, record))
        self._on_update(run.change)
        if run.state is State.PRECHECK:
            await self._store.save_change(run.change)
        elif run.state in MUTATING:
            await self._write(run.change)
        else:
            self._write_later(run.change)

    async def _perform(self, run: R) -> Step:
        state = run.state
        work = asyncio.ensure_future(self._phases.perform(state, run))
        waits: set[asyncio.Future[object]] = {work}  # type: ignore[arg-type]
        stop = None
        if state not in UNINTERRUPTED:
            stop = asyncio.ensure_future(run.cancelled.wait())
            waits.add(stop)  # type: ignore[arg-type]
        limit = self._phases.deadline(state, run)
        try:
            await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if stop is not None:
                stop.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=GRACE)
        return self._read(run, work, limit)

    def _read(self, run: R, work: asyncio.Future[Step], limit: float) -> Step:
        state = run.state
        cut = not work.done() or work.cancelled()
        if cut and run.cancelled.is_set() and state not in UNINTERRUPTED:
            return Step(Signal.CANCEL, "cancelled", "cancelled on request")
        if cut:
            told = run.change.phases[-1].detail
            text = f"not finished within {limit:g} s" + (f" ({told})" if told else "")
            return Step(ON_DEADLINE[state], text, f"{state.value} {text}")
        error = work.exception()
        if error is not None:
            return _failed(state, error)
        step = work.result()
        if run.cancelled.is_set() and step.signal is Signal.PASS and (state, Signal.CANCEL) in TRANSITIONS:
            return Step(Signal.CANCEL, step.detail, "cancelled on request")
        return step

    def _leave(self, run: R, step: Step) -> None:
        run.path.append((run.state, step.signal))
        if step.cause and not run.cause:
            run.cause = f"{run.state.value}: {step.cause}" if step.signal is not Signal.CANCEL else step.cause
        last = run.change.phases[-1]
        ended = dataclasses.replace(
            last,
            seconds=max(0.0, self._clock.time() - last.started),
            result=step.signal.value,
            detail=step.detail or step.cause,
        )
        run.change = dataclasses.replace(run.change, phases=(*run.change.phases[:-1], ended), cause=run.cause)
        run.state = next_state(run.state, step.signal, before=run.before)
        if run.state in RESTING:
            return
        self._on_update(run.change)

    async def _write(self, change: Change) -> None:
        """On disk when it returns; a journal that fails later on must not stop the way back."""
        try:
            await self._store.save_change(change)
        except AgentdError as error:
            log.warning("journal.write-failed", extra={"data": {"change": change.id, "error": error.message}})

    def _write_later(self, change: Change) -> None:
        """The store keeps the order of writes, so a later durable one covers this one too."""
        task = asyncio.ensure_future(self._write(change))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)


def _failed(state: State, error: BaseException) -> Step:
    if isinstance(error, AgentdError):
        text = error.message
    else:
        log.error("switch.internal", exc_info=error, extra={"data": {"phase": state.value}})
        text = f"internal error ({type(error).__name__})"
    for signal in (Signal.FAIL, Signal.STUCK, Signal.REFUSE) if state not in UNTOUCHED else (Signal.REFUSE,):
        if (state, signal) in TRANSITIONS:
            return Step(signal, cause=text)
    raise AssertionError(state)
