"""What a model needs of each GPU of its slot, what can be had there, and what it was seen to hold."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.core.quantities import told_bytes
from agentd.core.vram_budget import CONFIGURED, Need, Utilization, highest_share, need_on, utilization_of
from agentd.gpu import Gpu, GpuSnapshot
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.fingerprint import facts_of, fingerprint
from agentd.managers.models.holders import Holder, base, foreign_memory, held_by, named
from agentd.types import UnitState


@dataclass(frozen=True, slots=True)
class Room:
    """One GPU as the target will find it once everything of ours that moves has moved. Bytes."""

    gpu: Gpu
    need: Need
    stay: tuple[Holder, ...]
    """Who will still hold memory then."""
    base: int = 0
    """What nobody holds and nobody can have: the driver's own."""

    @property
    def available(self) -> int:
        return max(0, self.gpu.total - self.base - sum(holder.used for holder in self.stay))

    @property
    def fits(self) -> bool:
        """Without a margin: what is a near thing is the server's own to judge."""
        return self.need.size <= self.available


def asked(ctx: SlotContext, model: ModelUnit, argv: tuple[str, ...]) -> Utilization | None:
    """vLLM's share of each GPU, from the configuration or the unit's command line."""
    if model.spec.utilization:
        return Utilization(model.spec.utilization, "as configured")
    return utilization_of(argv, ctx.facts.of(model.name).version)


def need(ctx: SlotContext, model: ModelUnit, argv: tuple[str, ...], gpu: Gpu) -> Need:
    """What `model` needs of one GPU to start; with tensor parallelism that is the same on each of the slot."""
    learned = ctx.facts.of(model.name, fingerprint(model, UnitState(model.unit, exec_start=argv))).vram
    return need_on(gpu, configured=model.spec.vram, utilization=asked(ctx, model, argv), learned=learned)


async def command(ctx: SlotContext, run: SwitchRun, model: ModelUnit) -> tuple[str, ...]:
    """argv of the model's unit: as PRECHECK read it, or asked for now where there was none (after a crash)."""
    if model.name not in run.commands:
        run.commands[model.name] = (await ctx.ports.control.show(model.unit)).exec_start
    return run.commands[model.name]


def rooms(ctx: SlotContext, model: ModelUnit, argv: tuple[str, ...], snapshot: GpuSnapshot) -> tuple[Room, ...]:
    """For a GPU of the slot that is not there: nothing. Sleepers do not count: RELEASE stops those in the way."""
    foreign = foreign_memory(ctx, snapshot)
    return tuple(
        Room(gpu, need(ctx, model, argv, gpu), tuple(h for h in foreign if h.gpu == gpu.index), base(snapshot, gpu))
        for gpu in snapshot.gpus
        if gpu.index in ctx.slot.gpus
    )


def told(ctx: SlotContext, model: ModelUnit, room: Room, utilization: Utilization | None) -> str:
    """One line of the budget; for a GPU on which it does not fit with who is in the way, and what to do."""
    index, size = room.gpu.index, room.need.size
    if not size:
        return f"GPU {index}: what {model.name} needs is not known; {told_bytes(room.available)} can be had"
    text = f"GPU {index}: {model.name} needs {told_bytes(size)} ({room.need.source})"
    text += f", {told_bytes(room.available)} of {told_bytes(room.gpu.total)} can be had"
    if room.stay:
        text += f"; held by others: {named(ctx, room.stay)}"
    if room.fits:
        near = room.available - size < ctx.slot.vram_margin
        return text + (f"; that leaves less than the margin of {told_bytes(ctx.slot.vram_margin)}" if near else "")
    return text + f"; {_remedy(ctx, room, utilization)}"


def _remedy(ctx: SlotContext, room: Room, utilization: Utilization | None) -> str:
    ways = []
    if room.stay:
        ignored = {r.unit for r in ctx.runtimes.values() if r.spec.policy in ("ignore", "cpu_only")}
        found = [name for name, r in ctx.runtimes.items() if r.unit in ignored & {h.owner for h in room.stay}]
        ways.append(f'set the policy of {" and ".join(found)} to "evict"' if found else "end these")
    share = highest_share(room.gpu, room.available - ctx.slot.vram_margin)
    if utilization is not None and share > 0:
        ways.append(f"lower its utilization to {share:.2f}")
    elif not utilization and room.need.source != CONFIGURED:
        ways.append("say in vram what it needs by now")
    return " or ".join(ways) or "it is too large for this GPU"


async def learn(ctx: SlotContext, model: ModelUnit) -> None:
    """After a good start: what its processes hold on the GPU that holds most of it."""
    if ctx.slot.vram_probe == "none":
        return
    snapshot = await ctx.ports.gpus.read()
    most = max(held_by(ctx, snapshot, model).values(), default=0)
    known = await facts_of(ctx, model)
    if most and abs(most - known.vram) > known.vram // 100:
        await ctx.facts.learn(model.name, known.fingerprint, vram=most)
