"""A change made of steps, one after the other: journaled before and after each, told to whoever follows it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.errors import AgentdError
from agentd.ports import Clock, Store
from agentd.types import Change, ExitCode, Outcome, PhaseRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a change ended, in one sentence."""

    outcome: Outcome
    message: str
    code: ExitCode = ExitCode.OK
    cause: str = ""


Step = Callable[[str, str], Awaitable[None]]
"""(step, detail): the step that begins now. What does the work needs no more of a `Progress`."""


class Progress:
    """Called with (step, detail): the step that begins now."""

    def __init__(self, change: Change, steps: Steps) -> None:
        self.change = change
        self._steps = steps

    def tell(self, step: str, detail: str) -> None:
        """Told, not journaled: for steps that a crash does not have to know of."""
        self.change = advance(self.change, step, detail, self._steps.clock.time())
        self._steps.changes.note(self.change)

    async def __call__(self, step: str, detail: str) -> None:
        """On the disk when it returns. Raises AgentdError."""
        self.tell(step, detail)
        await self._steps.store.save_change(self.change)


Work = Callable[[Progress], Awaitable[Ending]]


@dataclass(frozen=True, slots=True)
class Steps:
    """Runs such changes. An AgentdError out of the work means: refused, nothing was touched."""

    store: Store
    changes: ChangeBook
    events: EventLog
    clock: Clock

    def begin(
        self, kind: str, target: str | None, work: Work, *, previous: str | None = None
    ) -> tuple[Change, asyncio.Task[Change]]:
        change = Change(f"{kind[0]}{secrets.token_hex(5)}", kind, "", target, previous, self.clock.time(), "begin")
        self.changes.note(change)
        return change, asyncio.ensure_future(self._drive(change, work))

    async def cut_off(self, change: Change, message: str) -> None:
        """End, in the journal, what an earlier process began."""
        await self._end(change, Ending(Outcome.RECOVERED, message))

    async def _drive(self, change: Change, work: Work) -> Change:
        progress = Progress(change, self)
        try:
            await self.store.save_change(change)
            ending = await work(progress)
        except AgentdError as error:
            ending = Ending(Outcome.REFUSED, error.message, ExitCode.REFUSED, error.hint)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # Nobody awaits this task: a bug must end the change, and be seen.
            log.exception("change.internal")
            ending = Ending(Outcome.DEGRADED, f"internal error ({type(error).__name__})", ExitCode.FAILED)
        return await self._end(progress.change, ending)

    async def _end(self, change: Change, ending: Ending) -> Change:
        now = self.clock.time()
        change = dataclasses.replace(
            advance(change, "done", "", now),
            finished=now,
            outcome=ending.outcome,
            exit_code=int(ending.code),
            message=ending.message,
            cause=ending.cause,
        )
        try:
            await self.store.save_change(change)
        except AgentdError as error:
            log.warning("change.not-saved", extra={"data": {"change": change.id, "error": error.message}})
        subject = change.target or "agentd"
        text = ending.message.removeprefix(f"{subject}: ")
        self.events.emit(f"{change.kind}.{ending.outcome.value}", subject, text, change=change.id)
        self.changes.note(change)
        return change


def advance(change: Change, step: str, detail: str, now: float) -> Change:
    """The step before is over, this one runs; "done" is no step."""
    phases = list(change.phases)
    if phases and phases[-1].seconds is None:
        last = phases[-1]
        phases[-1] = dataclasses.replace(last, seconds=max(0.0, now - last.started), result="pass")
    if step != "done":
        phases.append(PhaseRecord(step, now, detail=detail))
    return dataclasses.replace(change, phase=step, phases=tuple(phases))


async def ended(task: asyncio.Task[Change] | None) -> None:
    """Cancel and await."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
