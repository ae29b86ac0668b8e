"""RELEASE: the previous model gives the GPU back, asleep where that is safe; sleepers that are too many are stopped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentd.core.sleep_policy import Question, surplus, willing
from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.admission import is_measured, question, rooms
from agentd.managers.models.asleep import answers
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.listening import same_place
from agentd.managers.models.releaser import STOP, choose

PATIENCE = 5.0
"""Seconds for a model to say whether it sleeps: one that does not is stopped."""


async def release(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS when nothing of the previous model is left, or it sleeps and its memory is back; STUCK when never."""
    if run.only:
        return Step(Signal.KEPT, await STOP.release(ctx, run, ctx.models[run.only]))
    asked, found = await asyncio.gather(_asked(ctx, run), _sleepers(ctx, run))
    told = await _thin_out(ctx, run, found, stays=asked is not None and willing(asked))
    if run.previous is None or asked is None:
        return Step(Signal.PASS, "; ".join(told) or "nothing to stop")
    # Who was stopped has left room.
    told.append(await _previous(ctx, run, run.previous, await question(ctx, run, run.previous) if told else asked))
    if run.slept:
        return Step(Signal.PASS, "; ".join(told))
    holder = ctx.ports.kernel.port_holder(run.previous.port) if run.previous.port else None
    if holder is not None and run.target is not None and run.target.port == run.previous.port:
        who = f"{holder.comm} (pid {holder.pid})" if holder.pid else "a process of somebody else"
        return Step(Signal.FAIL, cause=f"port {holder.port} is still held by {who}")
    return Step(Signal.PASS, "; ".join(told))


async def _asked(ctx: SlotContext, run: SwitchRun) -> Question | None:
    """What decides about the previous model, None where there is none."""
    return await question(ctx, run, run.previous) if run.previous is not None else None


async def _previous(ctx: SlotContext, run: SwitchRun, model: ModelUnit, asked: Question) -> str:
    way, why = choose(asked)
    if way is not STOP:
        try:
            return await way.release(ctx, run, model)
        except AgentdError as error:
            why = error.message
    return await STOP.release(ctx, run, model) + (f", not put to sleep: {why}" if why else "")


@dataclass(frozen=True, slots=True)
class _Sleepers:
    """Beside the previous model. `names`: longest asleep first, strangers to the notes at last."""

    names: tuple[str, ...]
    certain: frozenset[str]
    """Those that say so themselves; who does not may wake under the next model."""
    ended: tuple[str, ...]
    """Noted, and not running any more."""


async def _sleepers(ctx: SlotContext, run: SwitchRun) -> _Sleepers:
    previous = run.previous.name if run.previous is not None else None
    states = await ctx.briefs()
    said = await answers(ctx, states, timeout=PATIENCE, but=previous)
    known = tuple(name for name in ctx.sleeping if name != previous and states[name].active_state.up)
    certain = frozenset(name for name, answer in said.items() if answer)
    ended = tuple(name for name in ctx.sleeping if not states[name].active_state.up)
    return _Sleepers(known + tuple(sorted(certain - set(known))), certain, ended)


async def _thin_out(ctx: SlotContext, run: SwitchRun, found: _Sleepers, *, stays: bool) -> list[str]:
    """Stop every sleeper that must not stay: more than the slot allows, or in the way of the target. `stays`: the
    previous model will be one more."""
    if run.change.kind == "switch":
        in_the_way = [name for name in found.names if name not in found.certain or _in_place(ctx, run, name)]
        honest = [name for name in found.names if name not in in_the_way]
        too_many = surplus(honest, run.target.name if run.target else None, ctx.slot.max_sleepers - stays)
        gone = [*in_the_way, *too_many]
    else:
        gone = list(found.names)
    told = [f"sleeper {await STOP.release(ctx, run, ctx.models[name])}" for name in gone]
    await ctx.sleepers.forget(*found.ended)
    return told + await _make_room(ctx, run, [name for name in found.names if name not in gone])


def _in_place(ctx: SlotContext, run: SwitchRun, name: str) -> bool:
    """It listens where the target is to."""
    return run.target is not None and name != run.target.name and same_place(ctx.models[name], run.target)


async def _make_room(ctx: SlotContext, run: SwitchRun, sleepers: list[str]) -> list[str]:
    """Where nothing is to fall asleep, what the others keep may already be too much for the target."""
    told: list[str] = []
    target = run.target
    others = [name for name in sleepers if target is not None and name != target.name]
    while others and target is not None:
        snapshot = await ctx.ports.gpus.read()
        if not is_measured(ctx, snapshot):
            break
        found = await rooms(ctx, run, ctx.models[others[0]], 1, snapshot, asleep=True)
        if not any(room.short for room in found):
            break
        told.append(f"sleeper {await STOP.release(ctx, run, ctx.models[others.pop(0)])}, for want of room")
    return told
