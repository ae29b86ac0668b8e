"""Which function carries out which state, how long it may take, and how a change's end is told."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping

from agentd.core.schema import Model, Slot
from agentd.core.switch import MUTATING, UNTOUCHED, Signal, State, outcome
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models import (
    checking,
    draining,
    eviction,
    making_way,
    precheck_files,
    readiness,
    releasing,
    start,
    undo,
    vram,
)
from agentd.managers.models.context import SlotContext, SwitchRun
from agentd.managers.models.patient import PatientControl
from agentd.managers.models.precheck import precheck
from agentd.managers.models.retry import tried_again
from agentd.managers.models.warming import Warming
from agentd.types import Change, Outcome
from agentd.wire import EXIT_CODES

Effect = Callable[[SlotContext, SwitchRun], Awaitable[Step]]

PRECHECK_SECONDS = 15.0
MARGIN = 15.0
"""Seconds on top of a phase's own, inner limit: the inner one gives the better message."""


async def _wait_vram(ctx: SlotContext, run: SwitchRun) -> Step:
    gone = run.previous_pids if not run.slept else frozenset()
    waiting = vram.wait_vram(ctx, run, run.target, gone | run.target_tree.keys())
    step = await making_way.wait_for_target(ctx, run, waiting)
    if run.target is not None:
        return step
    if step.signal is Signal.FAIL:
        return Step(Signal.STUCK, cause=step.cause)
    return Step(Signal.LENT if run.lease is not None else Signal.EMPTIED, step.detail)


EFFECTS: Mapping[State, Effect] = {
    State.PRECHECK: precheck,
    State.DRAIN: draining.drain,
    State.RELEASE: releasing.release,
    State.EVICT: eviction.evict,
    State.WAIT_VRAM: _wait_vram,
    State.START: tried_again(start.start),
    State.WAIT_READY: tried_again(readiness.wait_ready),
    State.VERIFY: start.verify,
    State.CLEANUP: undo.cleanup,
    State.SETTLE: undo.settle,
    State.ROLLBACK: undo.rollback,
}


async def _nothing(_ctx: SlotContext, _run: SwitchRun) -> Step:
    return Step(Signal.PASS, "not needed")


IN_A_CHECK: Mapping[State, Effect] = {
    State.PRECHECK: checking.precheck,
    State.RELEASE: checking.release,
    State.EVICT: _nothing,
}
"""What a sleep-check does in another way than a switch; the GPU stays the model's own."""


class SwitchPhases:
    """The phases of one slot; `ctx` may be replaced between two changes, never during one."""

    def __init__(self, ctx: SlotContext, remember: Callable[[SwitchRun], Awaitable[None]]) -> None:
        self.ctx = ctx
        self._remember = remember
        self._warming = Warming()

    async def perform(self, state: State, run: SwitchRun) -> Step:
        self._warming.at(self.ctx, run, state)
        try:
            step = await self._effect(state, run)
        except asyncio.CancelledError:
            self._warming.end()
            raise
        warmed = self._warming.told(run) if state is State.START and step.signal is Signal.PASS else ""
        return dataclasses.replace(step, detail=f"{step.detail}; {warmed}") if warmed else step

    async def _effect(self, state: State, run: SwitchRun) -> Step:
        try:
            effects = {**EFFECTS, **IN_A_CHECK} if run.change.kind == checking.KIND else EFFECTS
            return await effects[state](self._view(state), run)
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
            State.PRECHECK: PRECHECK_SECONDS + (precheck_files.seconds(run.target) if run.target is not None else 0.0),
            State.DRAIN: run.drain + MARGIN,
            State.RELEASE: _release_seconds(self.ctx, run) + 2 * MARGIN,
            State.EVICT: slot.evict_timeout + MARGIN,
            State.WAIT_VRAM: slot.vram_timeout + MARGIN,
            State.START: (target.start_timeout if target else 0.0) + _wake_seconds(self.ctx, run, target) + MARGIN,
            State.WAIT_READY: target.ready_timeout if target else MARGIN,
            State.VERIFY: (target.verify_timeout if target else 0.0) + MARGIN,
            State.CLEANUP: (target.stop_timeout if target else 0.0) + 2 * MARGIN,
            State.SETTLE: making_way.seconds(self.ctx) + (previous.stop_timeout if previous else 0.0) + 2 * MARGIN,
            State.ROLLBACK: _back_seconds(previous, slot) + _wake_seconds(self.ctx, run, previous) + MARGIN,
        }
        return limits[state]

    async def at_rest(self, run: SwitchRun) -> None:
        """A model that stays after all takes requests again; what changed is remembered before it is told."""
        self._warming.end()
        if all(state in UNTOUCHED for state, _ in run.path):
            await draining.ungate(self.ctx, run)
        else:
            await self._remember(run)

    def verdict(self, run: SwitchRun) -> Change:
        result = outcome(tuple(run.path), run.state)
        if run.state is State.WEDGED and result is Outcome.REFUSED:
            result = Outcome.WEDGED
        return dataclasses.replace(
            run.change, outcome=result, exit_code=EXIT_CODES[result].value, cause=run.cause,
            message=_told(self.ctx, run, result),
        )  # fmt: skip


def _release_seconds(ctx: SlotContext, run: SwitchRun) -> float:
    """Every sleeper may have to be stopped, and the previous model after a sleep that fails."""
    specs = [ctx.models[name].spec for name in ctx.sleeping]
    specs += [run.previous.spec] if run.previous is not None and run.previous.name not in ctx.sleeping else []
    falls_asleep = run.previous is not None and (run.level > 0 or run.previous.spec.switch != "stop")
    asleep = 3 * run.previous.spec.sleep_timeout + MARGIN if run.previous is not None and falls_asleep else 0.0
    return sum(spec.stop_timeout for spec in specs) + asleep


def _back_seconds(previous: Model | None, slot: Slot) -> float:
    """Two whole starts, with what is between them: the first try is ended, and memory waited for."""
    if previous is None:
        return 0.0
    start = previous.start_timeout + previous.ready_timeout + previous.verify_timeout
    return 2 * start + previous.stop_timeout + slot.vram_timeout + MARGIN


def _wake_seconds(ctx: SlotContext, run: SwitchRun, model: Model | None) -> float:
    """A wake with all its steps, and what it takes to be rid of a sleeper that does not wake."""
    if model is None or (model.switch == "stop" and not ctx.sleeping and not run.level):
        return 0.0
    wake = 6 * model.wake_timeout + model.verify_timeout
    if run.level:
        wake += wake + 2 * model.sleep_timeout + MARGIN
    return wake + model.stop_timeout + ctx.slot.vram_timeout + 2 * MARGIN


def _told(ctx: SlotContext, run: SwitchRun, result: Outcome) -> str:
    """The one sentence that a person reads."""
    kinds = {"switch": f"switch to {run.change.target}", checking.KIND: f"sleep-check of {run.change.target}"}
    what = kinds.get(run.change.kind, run.change.kind)
    before = run.previous.name if run.previous is not None else "nothing"
    slot = run.change.slot
    match result:
        case Outcome.DONE if run.change.kind == "switch":
            return f"{run.change.target} is serving"
        case Outcome.DONE if run.change.kind == checking.KIND:
            return checking.told(ctx, run)
        case Outcome.DONE:
            return f"slot {slot} is free" if not run.only else f"sleeper {run.only} is stopped"
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
