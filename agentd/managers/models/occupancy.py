"""How much GPU memory a runtime's processes hold by NVML, and whether it came back."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.managers.models.context import Runtime, SlotContext

SHARE = 0.75
"""Of what a runtime says its models hold, that must be free again: its account is an estimate."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Bytes over all GPUs: a runtime spreads a model over those that it finds."""

    held: int
    """By the runtime's processes."""
    used: int
    """By everybody."""
    pids: frozenset[int]
    """Its processes that are on a GPU, whether the driver tells how much they hold or not."""


async def occupancy(ctx: SlotContext, runtime: Runtime, known: frozenset[int] = frozenset()) -> Occupancy | None:
    """None where GPU memory is not measured, or cannot be read at the moment. `known`: pids that were its own; one that
    has ended since belongs to no unit any more, and may be on the GPU all the same."""
    if ctx.slot.vram_probe == "none":
        return None
    snapshot = await ctx.ports.gpus.read()
    if snapshot.source == "none" or snapshot.trouble(ctx.slot.gpus):
        return None
    kernel = ctx.ports.kernel
    own = [p for p in snapshot.processes if p.pid in known or runtime.owns(kernel, p.pid)]
    return Occupancy(sum(p.used for p in own), sum(g.used for g in snapshot.gpus), frozenset(p.pid for p in own))


def returned(before: Occupancy, now: Occupancy, claimed: int) -> bool:
    """Whether of `claimed` bytes enough is back. Where the driver does not tell what each process holds, all memory
    in use must have gone down."""
    base, left = (before.held, now.held) if before.held else (before.used, now.used)
    return base - left >= SHARE * min(claimed, base)
