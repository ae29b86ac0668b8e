"""RELEASE: the previous model gives the GPU back, asleep where that is safe; sleepers that are too many are stopped."""

from __future__ import annotations

from agentd.core.sleep_policy import level_of, surplus, willing
from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.admin import Admin
from agentd.managers.models.admission import question, rooms
from agentd.managers.models.asleep import asleep
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.releaser import STOP, choose


async def release(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS when nothing of the previous model is left, or it sleeps and its memory is back; STUCK when never."""
    if run.only:
        return Step(Signal.KEPT, await STOP.release(ctx, run, ctx.models[run.only]))
    stays = await _stays(ctx, run)
    told = await _thin_out(ctx, run, stays)
    if run.previous is None:
        return Step(Signal.PASS, "; ".join(told) or "nothing to stop")
    told.append(await _previous(ctx, run, run.previous))
    if run.slept:
        return Step(Signal.PASS, "; ".join(told))
    holder = ctx.ports.kernel.port_holder(run.previous.port) if run.previous.port else None
    if holder is not None and run.target is not None and run.target.port == run.previous.port:
        who = f"{holder.comm} (pid {holder.pid})" if holder.pid else "a process of somebody else"
        return Step(Signal.FAIL, cause=f"port {holder.port} is still held by {who}")
    return Step(Signal.PASS, "; ".join(told))


async def _previous(ctx: SlotContext, run: SwitchRun, model: ModelUnit) -> str:
    way, why = await choose(ctx, run, model)
    if way is not STOP:
        try:
            return await way.release(ctx, run, model)
        except AgentdError as error:
            why = error.message
    return await STOP.release(ctx, run, model) + (f", not put to sleep: {why}" if why else "")


async def _stays(ctx: SlotContext, run: SwitchRun) -> bool:
    """Will the previous model be one sleeper more?"""
    if run.previous is None or run.change.kind != "switch" or not level_of(run.previous.spec.switch):
        return False
    return willing(await question(ctx, run, run.previous))


async def _thin_out(ctx: SlotContext, run: SwitchRun, stays: bool) -> list[str]:
    """Stop every sleeper that must not stay: more than the slot allows, or in the way of the target."""
    states = await ctx.briefs()
    found = await asleep(ctx, states, timeout=5.0)
    previous = run.previous.name if run.previous is not None else None
    known = [name for name in ctx.sleeping if name != previous and states[name].active_state.up]
    sleepers = known + sorted(found - set(known) - {previous})
    if run.change.kind == "switch":
        lying = [name for name in sleepers if not await _certain(ctx, name)]
        honest = [name for name in sleepers if name not in lying]
        too_many = surplus(honest, run.target.name if run.target else None, ctx.slot.max_sleepers - stays)
        gone = [*lying, *too_many]
    else:
        gone = sleepers
    told = [f"sleeper {await STOP.release(ctx, run, ctx.models[name])}" for name in gone]
    await ctx.sleepers.forget(*[name for name in ctx.sleeping if not states[name].active_state.up])
    return told + await _make_room(ctx, run, [name for name in sleepers if name not in gone])


async def _certain(ctx: SlotContext, name: str) -> bool:
    """A sleeper that does not say that it sleeps may wake under the next model."""
    return await Admin(ctx.ports, ctx.models[name]).sleeping(5.0) is True


async def _make_room(ctx: SlotContext, run: SwitchRun, sleepers: list[str]) -> list[str]:
    """Where nothing is to fall asleep, what the others keep may already be too much for the target."""
    told: list[str] = []
    target = run.target
    others = [name for name in sleepers if target is not None and name != target.name]
    while others and target is not None:
        snapshot = await ctx.ports.gpus.read()
        found = await rooms(ctx, run, ctx.models[others[0]], 1, snapshot, asleep=True)
        if not any(room.short for room in found):
            break
        told.append(f"sleeper {await STOP.release(ctx, run, ctx.models[others.pop(0)])}, for want of room")
    return told
