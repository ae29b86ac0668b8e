"""Which function carries out which state, how long it may take, and how a change's end is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping

from agentd.core.switch import MUTATING, UNTOUCHED, Signal, State, outcome
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models import draining, eviction, readiness, release, start, undo, vram
from agentd.managers.models.context import SlotContext, SwitchRun
from agentd.managers.models.patient import PatientControl
from agentd.managers.models.precheck import precheck
from agentd.types import Change, Outcome
from agentd.wire import EXIT_CODES

Effect = Callable[[SlotContext, SwitchRun], Awaitable[Step]]

PRECHECK_SECONDS = 15.0
MARGIN = 15.0
"""Seconds on top of a phase's own, inner limit: the inner one gives the better message."""


async def _wait_vram(ctx: SlotContext, run: SwitchRun) -> Step:
    step = await vram.wait_vram(ctx, run.target, run.previous_pids, run.unlisted)
    if run.target is not None:
        return step
    if step.signal is Signal.FAIL:
        return Step(Signal.STUCK, cause=step.cause)
    return Step(Signal.LENT if run.lease is not None else Signal.EMPTIED, step.detail)


EFFECTS: Mapping[State, Effect] = {
    State.PRECHECK: precheck,
    State.DRAIN: draining.drain,
    State.RELEASE: release.release,
    State.EVICT: eviction.evict,
    State.WAIT_VRAM: _wait_vram,
    State.START: start.start,
    State.WAIT_READY: readiness.wait_ready,
    State.VERIFY: start.verify,
    State.CLEANUP: undo.cleanup,
    State.SETTLE: undo.settle,
    State.ROLLBACK: undo.rollback,
}


class SwitchPhases:
    """The phases of one slot; `ctx` may be replaced between two changes, never during one."""

    def __init__(self, ctx: SlotContext, remember: Callable[[SwitchRun], Awaitable[None]]) -> None:
        self.ctx = ctx
        self._remember = remember

    async def perform(self, state: State, run: SwitchRun) -> Step:
        try:
            return await EFFECTS[state](self._view(state), run)
        except AgentdError as error:
            if error.kind == "stuck" and state in (State.RELEASE, State.CLEANUP):
                return Step(Signal.STUCK, cause=error.message)
            if error.kind == "stuck" or state not in MUTATING or state in (State.EVICT, State.START):
                raise
            # The bus may be away for a moment; what matters is whether the processes are gone.
            return Step(Signal.FAIL if state is not State.CLEANUP else Signal.STUCK, cause=error.message)

    def _view(self, state: State) -> SlotContext:
        """PRECHECK says at once that systemd is away; from then on a change outlives a bus that comes back."""
        if state is State.PRECHECK:
            return self.ctx
        ports = dataclasses.replace(self.ctx.ports, control=PatientControl(self.ctx.ports.control))
        return dataclasses.replace(self.ctx, ports=ports)

    def deadline(self, state: State, run: SwitchRun) -> float:
        slot = self.ctx.slot
        target = run.target.spec if run.target is not None else None
        previous = run.previous.spec if run.previous is not None else None
        limits = {
            State.PRECHECK: PRECHECK_SECONDS,
            State.DRAIN: run.drain + MARGIN,
            State.RELEASE: (previous.stop_timeout if previous else 0.0) + 2 * MARGIN,
            State.EVICT: slot.evict_timeout,
            State.WAIT_VRAM: slot.vram_timeout + MARGIN,
            State.START: (target.start_timeout if target else 0.0) + MARGIN,
            State.WAIT_READY: target.ready_timeout if target else MARGIN,
            State.VERIFY: (target.verify_timeout if target else 0.0) + MARGIN,
            State.CLEANUP: (target.stop_timeout if target else 0.0) + 2 * MARGIN,
            State.SETTLE: slot.vram_timeout + (previous.stop_timeout if previous else 0.0) + MARGIN,
            State.ROLLBACK: (previous.start_timeout + previous.ready_timeout if previous else 0.0) + MARGIN,
        }
        return limits[state]

    async def at_rest(self, run: SwitchRun) -> None:
        """A model that stays after all takes requests again; what changed is remembered before it is told."""
        if all(state in UNTOUCHED for state, _ in run.path):
            await draining.ungate(self.ctx, run)
        else:
            await self._remember(run)

    def verdict(self, run: SwitchRun) -> Change:
        result = outcome(tuple(run.path), run.state)
        if run.state is State.WEDGED and result is Outcome.REFUSED:
            result = Outcome.WEDGED
        return dataclasses.replace(
            run.change, outcome=result, exit_code=EXIT_CODES[result].value, cause=run.cause, message=_told(run, result)
        )


def _told(run: SwitchRun, result: Outcome) -> str:
    """The one sentence that a person reads."""
    what = {"switch": f"switch to {run.change.target}", "unload": "unload", "lease": "lease"}[run.change.kind]
    before = run.previous.name if run.previous is not None else "nothing"
    slot = run.change.slot
    match result:
        case Outcome.DONE if run.change.kind == "switch":
            return f"{run.change.target} is serving"
        case Outcome.DONE:
            return f"slot {slot} is free"
        case Outcome.REFUSED:
            return f"{what} refused: {run.cause}"
        case Outcome.DRAIN_REFUSED:
            return f"{what} refused: {run.cause}; {before} keeps serving"
        case Outcome.CANCELLED:
            return f"{what} cancelled; nothing was stopped"
        case Outcome.ROLLED_BACK:
            return f"{what} failed: {run.cause}; {run.adopted or before} is serving{'' if run.adopted else ' again'}"
        case Outcome.DEGRADED:
            return f"{what} failed: {run.cause}; slot {slot} is empty{_second_cause(run)}"
        case Outcome.WEDGED:
            return f"{what} failed: {run.cause}; slot {slot} is wedged and needs a person"
        case _:
            return f"{what}: {result.value}"


def _second_cause(run: SwitchRun) -> str:
    """Why the way back failed too, when that is another reason than the first."""
    last = run.change.phases[-1] if run.change.phases else None
    if last is not None and last.phase == State.ROLLBACK and last.result == Signal.FAIL:
        return f", and {last.detail}"
    return ""
