"""Who holds memory on the GPUs of a slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.core.quantities import told_bytes
from agentd.core.schema import Settings, Slot
from agentd.gpu import Gpu, GpuSnapshot
from agentd.managers.models.context import ModelUnit, SlotContext

UNLISTED_USUAL = 1024**3
"""Bytes that a driver may hold for itself at most."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One process on one GPU; `owner` is a unit where there is one, else the program's name. Bytes."""

    gpu: int
    pid: int
    owner: str
    used: int


def holders(ctx: SlotContext, snapshot: GpuSnapshot) -> tuple[Holder, ...]:
    """On the slot's own GPUs; what happens on others is no business of it."""
    kernel = ctx.ports.kernel
    return tuple(
        Holder(p.gpu, p.pid, kernel.unit_of(p.pid) or kernel.comm(p.pid) or "a process that is gone", p.used)
        for p in snapshot.processes
        if p.gpu in ctx.slot.gpus
    )


def foreign_memory(ctx: SlotContext, snapshot: GpuSnapshot) -> tuple[Holder, ...]:
    """Holders that the switch will not move: neither the slot's models nor what it evicts."""
    movable = {m.unit for m in ctx.models.values()}
    moved = [r for r in ctx.runtimes.values() if r.spec.policy in ("evict", "stop_unit")]

    def stays(holder: Holder) -> bool:
        return holder.owner not in movable and not any(r.owns(ctx.ports.kernel, holder.pid) for r in moved)

    return tuple(holder for holder in holders(ctx, snapshot) if stays(holder))


def staying(ctx: SlotContext, snapshot: GpuSnapshot, model: ModelUnit) -> tuple[Holder, ...]:
    """Who will hold memory beside `model` when it starts: strangers, and what the sleepers keep."""
    asleep = {ctx.models[name].unit for name in ctx.sleeping if name != model.name}
    kept = tuple(holder for holder in holders(ctx, snapshot) if holder.owner in asleep)
    return foreign_memory(ctx, snapshot) + kept


def held_by(ctx: SlotContext, snapshot: GpuSnapshot, model: ModelUnit) -> dict[int, int]:
    """GPU -> bytes that the model's processes hold; empty where the driver does not tell."""
    found: dict[int, int] = {}
    for one in holders(ctx, snapshot):
        if one.owner == model.unit and one.used:
            found[one.gpu] = found.get(one.gpu, 0) + one.used
    return found


def unlisted(snapshot: GpuSnapshot) -> dict[int, int]:
    """Per GPU: memory that is neither free nor held by a listed process, such as what the driver reserves, which `used`
    leaves out. A driver lists a process no more while it still frees."""
    found = {g.index: g.total - g.free for g in snapshot.gpus}
    for process in snapshot.processes:
        found[process.gpu] = max(0, found.get(process.gpu, 0) - process.used)
    return found


def missing_gpus(slot: Slot, snapshot: GpuSnapshot) -> tuple[int, ...]:
    """Those of the slot that are not there: nothing can be started without them."""
    present = {gpu.index for gpu in snapshot.gpus}
    return tuple(index for index in slot.gpus if index not in present)


def base(snapshot: GpuSnapshot, gpu: Gpu) -> int:
    """What the driver keeps of a GPU for itself, as far as that can be told: more than usual is on its way out, or
    belongs to processes of which the driver tells nothing."""
    size = unlisted(snapshot).get(gpu.index, 0)
    if size <= UNLISTED_USUAL:
        return size
    told = any(p.used for p in snapshot.processes if p.gpu == gpu.index)
    return UNLISTED_USUAL if told else 0


def named(ctx: SlotContext, found: Sequence[Holder]) -> str:
    """ "qwen of slot big (vllm-qwen.service, pid 12, 13.2G) and game (pid 13)"; "" for nobody."""
    return " and ".join(_named(ctx, holder) for holder in found)


def _named(ctx: SlotContext, holder: Holder) -> str:
    """A model by its name, a service by its unit, what runs in a session by its program."""
    name = ctx.neighbours.get(holder.owner, "")
    if not name and holder.owner.endswith(".scope"):
        name = ctx.ports.kernel.comm(holder.pid)
    parts = [holder.owner] if name else []
    parts += [f"pid {holder.pid}"] + ([told_bytes(holder.used)] if holder.used else [])
    return f"{name or holder.owner} ({', '.join(parts)})"


def neighbours(settings: Settings, slot: str) -> dict[str, str]:
    """Unit -> "qwen of slot big", for the models of all other slots."""
    return {
        service.unit: f"{name} of slot {service.model.slot}"
        for name, service in settings.services.items()
        if service.model is not None and service.model.slot != slot
    }
