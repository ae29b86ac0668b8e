"""WAIT_VRAM: free GPU memory that is enough and stable, and who holds the rest."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field

from agentd.core.quantities import told_bytes
from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.gpu import Gpu, GpuSnapshot
from agentd.managers.models.budget import command, need
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.holders import UNLISTED_USUAL, held_by, holders, missing_gpus, named, staying, unlisted
from agentd.managers.models.orphans import end_orphans, still_there

POLL = 0.1
"""Seconds between two looks at NVML; its own figures move no faster."""
STABLE_BYTES = 64 * 1024**2
"""Free memory that moves less than this counts as stable; vLLM's profiling asserts otherwise."""
UNLISTED_LEEWAY = 256 * 1024**2


async def wait_vram(ctx: SlotContext, run: SwitchRun, model: ModelUnit | None, gone: frozenset[int]) -> Step:
    """PASS once none of `gone` holds memory and enough for `model` is free and stable; FAIL names the holders.

    Orphans of the slot's models are ended on the way. How much is enough, `budget` knows; what it holds itself
    already, asleep or started by somebody else, counts as free for it.
    """
    if ctx.slot.vram_probe == "none":
        return Step(Signal.PASS, "GPU memory is not measured here")
    argv = await command(ctx, run, model) if model is not None else ()
    wait = _Wait(ctx, run, model, argv, gone, ctx.ports.clock.monotonic())
    while True:
        snapshot = await ctx.ports.gpus.read()
        if snapshot.source == "none":
            return Step(Signal.PASS, "GPU memory is not measured here")
        killed = await end_orphans(ctx, run, snapshot)
        step = wait.judge(snapshot) if not killed else None
        if step is not None:
            return step
        await asyncio.sleep(POLL)


@dataclass(slots=True)
class _Wait:
    """One wait for memory: what it is for, and since when what is free has not moved."""

    ctx: SlotContext
    run: SwitchRun
    model: ModelUnit | None
    argv: tuple[str, ...]
    gone: frozenset[int]
    started: float
    reference: dict[int, int] = field(default_factory=dict)
    """GPU -> free bytes that the present ones are compared with."""
    stable_since: float = 0.0

    def judge(self, snapshot: GpuSnapshot) -> Step | None:
        """None: look again."""
        now = self.ctx.ports.clock.monotonic()
        waited = now - self.started
        over = waited >= self.ctx.slot.vram_timeout
        self._compare(snapshot, now)
        short = self._shortage(snapshot)
        late = "" if short else self._on_its_way(snapshot)
        if not short and (over or not late) and now - self.stable_since >= self._stable_for():
            free = sum(gpu.free for gpu in self._gpus(snapshot))
            return Step(Signal.PASS, f"{told_bytes(free)} free after {waited:.1f} s{late}{self._ended()}")
        if not over:
            return None
        why = short or f"free GPU memory kept changing for {waited:.0f} s"
        found = named(self.ctx, holders(self.ctx, snapshot))
        return Step(Signal.FAIL, cause=why + (f"; held by {found}" if found else "; no process admits to holding it"))

    def _gpus(self, snapshot: GpuSnapshot) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in snapshot.gpus if gpu.index in self.ctx.slot.gpus)

    def _compare(self, snapshot: GpuSnapshot, now: float) -> None:
        free = {gpu.index: gpu.free for gpu in self._gpus(snapshot)}
        moved = any(abs(free[index] - self.reference.get(index, -1)) > STABLE_BYTES for index in free)
        if moved or free.keys() != self.reference.keys():
            self.reference, self.stable_since = free, now

    def _shortage(self, snapshot: GpuSnapshot) -> str:
        trouble = snapshot.trouble(self.ctx.slot.gpus)
        if trouble:
            return f"GPU memory cannot be read: {trouble}"
        trees = {**self.run.previous_tree, **self.run.target_tree}
        left = sorted({p.pid for p in snapshot.processes if p.pid in self.gone and still_there(self.ctx, p.pid, trees)})
        if left:
            survived = ", though they were killed" if set(left) <= self.run.ended.keys() else ""
            pids = ", ".join(map(str, left))
            return f"processes of the released model still hold GPU memory{survived}: {pids}"
        missing = missing_gpus(self.ctx.slot, snapshot)
        if missing:
            return f"GPU {', '.join(map(str, missing))} is not there"
        shortages = (self._short_on(gpu, snapshot) for gpu in self._gpus(snapshot))
        return next((short for short in shortages if short), "")

    def _short_on(self, gpu: Gpu, snapshot: GpuSnapshot) -> str:
        if self.model is None:
            return ""
        asked = need(self.ctx, self.model, self.argv, gpu)
        own = self._own(self.model, gpu, snapshot)
        wanted = min(self._wanted(self.model, asked.size, gpu, snapshot), gpu.total) - own
        if not asked.size or gpu.free >= wanted:
            return ""
        has = f"GPU {gpu.index} has {told_bytes(gpu.free)} free"
        return f"{has}, {self.model.name} needs {told_bytes(max(0, asked.size - own))} ({asked.source})"

    def _stable_for(self) -> float:
        """Only a start profiles the memory; a wake takes what is there, and an empty slot waits for nobody else."""
        starts = self.model is not None and self.model.name not in self.ctx.sleeping
        return self.ctx.slot.vram_stable if starts else 0.0

    def _own(self, model: ModelUnit, gpu: Gpu, snapshot: GpuSnapshot) -> int:
        """What it holds already, because it sleeps or somebody has just started it; an orphan's is of no use to it."""
        alive = dataclasses.replace(
            snapshot, processes=tuple(p for p in snapshot.processes if p.pid not in self.run.ended)
        )
        return held_by(self.ctx, alive, model).get(gpu.index, 0)

    def _asleep(self, gpu: Gpu, snapshot: GpuSnapshot) -> int:
        """What other models of the slot hold while they sleep."""
        ctx = self.ctx
        others = [ctx.models[name] for name in ctx.sleeping if self.model is None or name != self.model.name]
        return sum(held_by(ctx, snapshot, other).get(gpu.index, 0) for other in others)

    def _wanted(self, model: ModelUnit, size: int, gpu: Gpu, snapshot: GpuSnapshot) -> int:
        """With the margin, as far as that can ever be had beside those who stay."""
        stay = sum(h.used for h in staying(self.ctx, snapshot, model) if h.gpu == gpu.index)
        usual = unlisted(snapshot) if self.run.unlisted is None else self.run.unlisted
        best = gpu.total - stay - usual.get(gpu.index, 0) - self._asleep(gpu, snapshot)
        return max(size, min(size + self.ctx.slot.vram_margin, best))

    def _on_its_way(self, snapshot: GpuSnapshot) -> str:
        """Memory of processes that have ended. Only a reason to wait: a process of another namespace looks the same."""
        before = self.run.unlisted
        for index, size in unlisted(snapshot).items():
            usual = UNLISTED_USUAL if before is None else before.get(index, 0) + UNLISTED_LEEWAY
            if index in self.ctx.slot.gpus and size > usual:
                return f"; {told_bytes(size)} of GPU {index} are held by no process that can be seen"
        return ""

    def _ended(self) -> str:
        count = len(self.run.ended)
        return f"; {count} orphaned process{'es' if count != 1 else ''} killed" if count else ""
