"""A new set brought into the services: one restart at a time, and back again for a service that does not come up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agentd.core.exit_status import Diagnosis
from agentd.core.unitdiff import changes
from agentd.core.unitfile import Directive, parse
from agentd.engine.events import EventLog
from agentd.errors import AgentdError, BusError
from agentd.managers.hardening.history import DropInSet, Pending, SetStore, Texts
from agentd.managers.hardening.loading import Loading
from agentd.managers.hardening.restart import Failure, Ready, Restarter
from agentd.managers.hardening.transaction import Transactions
from agentd.ports import Clock

Progress = Callable[[str, str], None]
"""(unit, what is being done with it)."""


class Result(StrEnum):
    RESTARTED = "restarted"
    NOT_RUNNING = "not-running"
    ROLLED_BACK = "rolled-back"
    """It did not come up; it has its old drop-ins and runs."""
    FAILED = "failed"
    """It did not come up, and not with its old drop-ins either."""


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """`message` is one sentence; `seconds` from the restart until the unit was up (again)."""

    unit: str
    result: Result
    message: str
    diagnosis: Diagnosis = field(default_factory=Diagnosis)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.result in (Result.RESTARTED, Result.NOT_RUNNING)


class Rollout:
    def __init__(
        self,
        restarter: Restarter,
        transactions: Transactions,
        sets: SetStore,
        loading: Loading,
        events: EventLog,
        clock: Clock,
    ) -> None:
        self._restarter = restarter
        self._transactions = transactions
        self._sets = sets
        self._loading = loading
        self._events = events
        self._clock = clock

    def changed_units(self, item: DropInSet) -> tuple[str, ...]:
        """Units of which a directive changed, not only a comment."""
        differ = [path for path, text in item.files.items() if changes(item.before[path], text)]
        return self._loading.units_of(differ)

    async def run(
        self, work: Sequence[tuple[str, DropInSet | None]], ready: Ready | None, progress: Progress | None
    ) -> tuple[UnitOutcome, ...]:
        """Units, each with the set that it goes back from when it does not come up. Raises BusError: what was begun
        is left to `recover`."""
        outcomes = []
        for unit, item in work:
            outcome = await self._one(unit, item, ready, progress or (lambda _unit, _text: None))
            outcomes.append(outcome)
            kind = "dropins.restarted" if outcome.ok else f"dropins.{outcome.result.value}"
            if outcome.result is not Result.NOT_RUNNING:
                self._events.emit(kind, unit, outcome.message)
        return tuple(outcomes)

    async def resume(self, pending: Pending) -> str:
        """A restart that was cut off: the unit that is down then goes back to its old drop-ins and is started."""
        unit, item = pending.restarting, pending.set
        if not await self._restarter.looks_failed(unit):
            await self._sets.forget()
            return f"{unit} was being restarted, and runs"
        if item.files:
            await self._go_back(unit, item)
        failure = await self._restarter.brought_back(unit, None)
        await self._sets.forget()
        if failure is not None:
            return f"{unit} was being restarted, and does not come up: {failure}"
        return f"{unit} was being restarted and did not come up; it runs again, with its old drop-ins"

    async def _one(self, unit: str, item: DropInSet | None, ready: Ready | None, progress: Progress) -> UnitOutcome:
        if not await self._restarter.running(unit):
            text = f"{unit} is not running; its drop-ins count from its next start"
            return UnitOutcome(unit, Result.NOT_RUNNING, text)
        own = self._own(unit, item)
        await self._sets.begin(Pending(own, unit, installed=True))
        progress(unit, "restarting")
        start = self._clock.monotonic()
        failure = await self._restarter.restarted(unit, ready, _suspects(own))
        if failure is None:
            await self._sets.forget()
            seconds = self._clock.monotonic() - start
            return UnitOutcome(unit, Result.RESTARTED, f"{unit} runs under its drop-ins", seconds=seconds)
        outcome = await self._back(unit, own, failure, ready, progress)
        return replace(outcome, seconds=self._clock.monotonic() - start)

    async def _back(
        self, unit: str, own: DropInSet, failure: Failure, ready: Ready | None, progress: Progress
    ) -> UnitOutcome:
        progress(unit, f"rolling back: {failure}")
        text = f"{unit} did not come up under its new drop-ins: {failure}"
        try:
            if own.files:
                await self._go_back(unit, own)
        except BusError:
            raise
        except AgentdError as error:
            await self._sets.forget()
            message = f"{text}; its old drop-ins could not be put back: {error.message}"
            return UnitOutcome(unit, Result.FAILED, message, failure.diagnosis)
        progress(unit, "starting it as it was")
        second = await self._restarter.brought_back(unit, ready)
        await self._sets.forget()
        if second is not None:
            message = f"{text}; with its old drop-ins it does not come up either: {second}"
            return UnitOutcome(unit, Result.FAILED, message, failure.diagnosis)
        back = "it has its old drop-ins and runs" if own.files else "started once more, it runs"
        return UnitOutcome(unit, Result.ROLLED_BACK, f"{text}; {back}", failure.diagnosis)

    async def _go_back(self, unit: str, own: DropInSet) -> None:
        reason = f"{unit} did not come up"
        await self._transactions.run(own.files, own.before, reason, parent=own.parent, restarting=unit)

    def _own(self, unit: str, item: DropInSet | None) -> DropInSet:
        """The unit's part of the set; without any file where there is nothing to go back to."""
        if item is None:
            return DropInSet(0, self._clock.time(), "restart", {}, {}, 0, 0)
        paths = [path for path in item.files if self._loading.unit_of(path) == unit]
        return replace(item, before=_only(item.before, paths), files=_only(item.files, paths))


def _only(texts: Texts, paths: Sequence[str]) -> Texts:
    return {path: texts[path] for path in paths}


def _suspects(own: DropInSet) -> tuple[tuple[Directive, ...], ...]:
    """The directives that are new, then all of them: what worked before is hardly the cause."""
    known = {(d.section, d.key, d.value) for text in own.before.values() for d in parse(text or "").directives}
    every = tuple(d for path, text in own.files.items() for d in parse(text or "", path).directives)
    return tuple(d for d in every if (d.section, d.key, d.value) not in known), every
