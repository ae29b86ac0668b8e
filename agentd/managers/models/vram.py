"""WAIT_VRAM: free GPU memory that is enough and stable, and who holds the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.gpu import GpuSnapshot
from agentd.managers.models.context import ModelUnit, SlotContext

POLL = 0.1
"""Seconds between two looks at NVML; its own figures move no faster."""
STABLE_BYTES = 64 * 1024**2
"""Free memory that moves less than this counts as stable; vLLM's profiling asserts otherwise."""
UNLISTED_LEEWAY = 256 * 1024**2
UNLISTED_USUAL = 1024**3
"""What a driver may hold for itself, where it is not known what it held before."""


def told_bytes(size: int) -> str:
    """For a person to read: "14G", "14.4G", "512M". What NVML measures is never a round number."""
    value, unit = size / 1024**2, "M"
    if value >= 1024:
        value, unit = value / 1024, "G"
    return f"{value:.1f}".removesuffix(".0") + unit


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds memory on a GPU; `owner` is a unit where there is one, else the program's name."""

    gpu: int
    pid: int
    owner: str
    used: int


def holders(ctx: SlotContext, snapshot: GpuSnapshot) -> tuple[Holder, ...]:
    kernel = ctx.ports.kernel
    return tuple(
        Holder(p.gpu, p.pid, kernel.unit_of(p.pid) or kernel.comm(p.pid) or "a process that is gone", p.used)
        for p in snapshot.processes
        if p.gpu in ctx.slot.gpus
    )


def foreign_memory(ctx: SlotContext, snapshot: GpuSnapshot) -> tuple[Holder, ...]:
    """Holders that the switch will not move: neither the slot's models nor what it evicts."""
    movable = {m.unit for m in ctx.models.values()} | {r.unit for r in ctx.runtimes.values()}
    return tuple(h for h in holders(ctx, snapshot) if h.owner not in movable)


async def wait_vram(
    ctx: SlotContext, model: ModelUnit | None, gone: frozenset[int], before: Mapping[int, int] | None
) -> Step:
    """PASS once none of `gone` holds memory and enough for `model` is free and stable; FAIL names the holders.

    `before` is what `unlisted` said before anything was stopped, None when that is not known.
    """
    if ctx.slot.vram_probe == "none":
        return Step(Signal.PASS, "GPU memory is not measured here")
    started = ctx.ports.clock.monotonic()
    stable_since, reference = started, -1
    reason = ""
    while True:
        snapshot = await ctx.ports.gpus.read()
        now = ctx.ports.clock.monotonic()
        if snapshot.source == "none":
            return Step(Signal.PASS, "GPU memory is not measured here")
        free = sum(g.free for g in snapshot.gpus if g.index in ctx.slot.gpus)
        if reference < 0 or abs(free - reference) > STABLE_BYTES:
            reference, stable_since = free, now
        reason = _shortage(ctx, snapshot, model, gone)
        late = "" if reason else _on_its_way(ctx, snapshot, before)
        over = now - started >= ctx.slot.vram_timeout
        if not reason and (over or not late) and now - stable_since >= ctx.slot.vram_stable:
            return Step(Signal.PASS, f"{told_bytes(free)} free after {now - started:.1f} s{late}")
        if over:
            why = reason or f"free GPU memory kept changing for {now - started:.0f} s"
            return Step(Signal.FAIL, cause=why + _named(ctx, snapshot))
        await asyncio.sleep(POLL)


def _shortage(ctx: SlotContext, snapshot: GpuSnapshot, model: ModelUnit | None, gone: frozenset[int]) -> str:
    if snapshot.error:
        return f"GPU memory cannot be read: {snapshot.error}"
    left = sorted(p.pid for p in snapshot.processes if p.pid in gone)
    if left:
        return f"processes of the released model still hold GPU memory: {', '.join(map(str, left))}"
    if model is None or not model.spec.vram:
        return ""
    need = model.spec.vram + ctx.slot.vram_margin
    for gpu in snapshot.gpus:
        wanted = min(need, gpu.total)
        if gpu.index in ctx.slot.gpus and gpu.free < wanted:
            return f"GPU {gpu.index} has {told_bytes(gpu.free)} free, {model.name} needs {told_bytes(wanted)}"
    return ""


def unlisted(snapshot: GpuSnapshot) -> dict[int, int]:
    """Per GPU: memory in use that no listed process holds. A driver lists a process no more while it still frees."""
    found = {g.index: g.used for g in snapshot.gpus}
    for process in snapshot.processes:
        found[process.gpu] = max(0, found.get(process.gpu, 0) - process.used)
    return found


def _on_its_way(ctx: SlotContext, snapshot: GpuSnapshot, before: Mapping[int, int] | None) -> str:
    """Memory of processes that have ended. Only a reason to wait: a process of another namespace looks the same."""
    for index, size in unlisted(snapshot).items():
        usual = UNLISTED_USUAL if before is None else before.get(index, 0) + UNLISTED_LEEWAY
        if index in ctx.slot.gpus and size > usual:
            return f"; {told_bytes(size)} of GPU {index} are held by no process that can be seen"
    return ""


def _named(ctx: SlotContext, snapshot: GpuSnapshot) -> str:
    found = [f"{h.owner} (pid {h.pid}, {told_bytes(h.used)})" for h in holders(ctx, snapshot)]
    return f"; held by {', '.join(found)}" if found else "; no process admits to holding it"
