"""What core.sleep_policy is told before a model is put to sleep: of the server, the GPUs, main memory, the facts."""

from __future__ import annotations

import asyncio

from agentd.core.sleep_policy import Question, Room, level_of
from agentd.gpu import Gpu, GpuSnapshot
from agentd.managers.models.admin import Admin
from agentd.managers.models.budget import command, need
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.fingerprint import facts_of
from agentd.managers.models.holders import foreign_memory, held_by, unlisted
from agentd.managers.models.listening import same_place

RESIDUAL = 1024**3
"""What a sleeper is taken to hold on a GPU before it was ever measured; published figures go from 0.5 to 1.4 GiB."""
MARGIN = 64 * 1024**2
"""What must be left when all of it is counted; the slot's own margin is wanted only as far as it can be had."""


async def question(ctx: SlotContext, run: SwitchRun, model: ModelUnit) -> Question:
    """May `model` be put to sleep for this change? What it asks of the server costs nothing but a few answers."""
    spec, admin = model.spec, Admin(ctx.ports, model)
    switch = f"sleep{run.level}" if run.level else spec.switch
    if switch == "stop" or run.change.kind not in ("switch", "sleep-check"):
        return Question(model.name, switch, run.change.kind, ctx.slot.max_sleepers)
    snapshot, state, version, sleeping, paused, weights = await asyncio.gather(
        ctx.ports.gpus.read(), ctx.ports.control.show(model.unit), admin.version(), admin.sleeping(), admin.paused(),
        ctx.ports.weights.weights(spec.path),
    )  # fmt: skip
    measured = is_measured(ctx, snapshot)
    return Question(
        model=model.name,
        switch=switch,
        kind=run.change.kind,
        max_sleepers=max(1, ctx.slot.max_sleepers) if run.change.kind == "sleep-check" else ctx.slot.max_sleepers,
        version=version,
        can_sleep=sleeping is not None,
        can_pause=paused is not None,
        measured=measured,
        weights=weights or sum(held_by(ctx, snapshot, model).values()),
        available=ctx.ports.kernel.memory_available(),
        pinned=bool(state.main_pid) and ctx.sleepers.pinned.get(model.name) == state.main_pid,
        reserve=ctx.slot.sleep_reserve,
        rooms=await rooms(ctx, run, model, level_of(switch), snapshot) if measured else (),
        facts=await facts_of(ctx, model, state),
        in_place_of=_in_place_of(run, model),
    )


def _in_place_of(run: SwitchRun, model: ModelUnit) -> str:
    target = run.target
    return target.name if target is not None and target.name != model.name and same_place(model, target) else ""


def is_measured(ctx: SlotContext, snapshot: GpuSnapshot) -> bool:
    return ctx.slot.vram_probe != "none" and snapshot.source != "none" and not snapshot.trouble(ctx.slot.gpus)


async def rooms(
    ctx: SlotContext, run: SwitchRun, model: ModelUnit, level: int, snapshot: GpuSnapshot, *, asleep: bool = False
) -> tuple[Room, ...]:
    """The GPUs as the target will find them; `asleep`: `model` sleeps already, so that its rest is measured."""
    target = run.target
    if target is None or target.name == model.name:
        return ()
    found, argv = [], await command(ctx, run, target)
    foreign = foreign_memory(ctx, snapshot)
    others = [ctx.models[name] for name in ctx.sleeping if name not in (target.name, model.name)]
    for gpu in _gpus(ctx, snapshot):
        rest = held_by(ctx, snapshot, model).get(gpu.index, 0) if asleep else 0
        rest = rest or _expected(ctx, model, level)
        rest += sum(held_by(ctx, snapshot, other).get(gpu.index, 0) for other in others)
        taken = sum(h.used for h in foreign if h.gpu == gpu.index) + _driver(ctx, run, model, snapshot, gpu.index)
        wanted = min(need(ctx, target, argv, gpu).size, gpu.total)
        found.append(Room(gpu.index, gpu.total, taken, rest, MARGIN, wanted))
    return tuple(found)


def _gpus(ctx: SlotContext, snapshot: GpuSnapshot) -> tuple[Gpu, ...]:
    return tuple(gpu for gpu in snapshot.gpus if gpu.index in ctx.slot.gpus)


def _driver(ctx: SlotContext, run: SwitchRun, model: ModelUnit, snapshot: GpuSnapshot, gpu: int) -> int:
    """What no process is listed for stays, too; where the driver gives no figures it is everything and says nothing."""
    told = held_by(ctx, snapshot, model)
    usual = unlisted(snapshot) if run.unlisted is None else run.unlisted
    return usual.get(gpu, 0) if told else 0


def _expected(ctx: SlotContext, model: ModelUnit, level: int) -> int:
    """Bytes per GPU that the model will keep while it sleeps."""
    measured = ctx.facts.of(model.name).level(level).residual
    return measured // len(ctx.slot.gpus) if measured else RESIDUAL
