"""Processes that outlived their model and still hold GPU memory: ended, when it is certain that they are ours.

Certain is what lies in the cgroup of a unit of the slot that systemd calls inactive, and what belonged to a model
before it was stopped, has its start time, vLLM's process title, and has left the cgroup. Nobody else is ever touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agentd.core.quantities import told_bytes
from agentd.errors import AgentdError
from agentd.gpu import GpuProcess, GpuSnapshot
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.ports import ProcessInfo

TITLE = "VLLM::"
"""How the titles of vLLM's engine and workers begin."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """`ours`: recorded before the stop; else its cgroup has to be looked at."""

    process: ProcessInfo
    model: ModelUnit
    held: GpuProcess
    ours: bool


def tree_of(ctx: SlotContext, pids: Iterable[int]) -> dict[int, int]:
    """Pid -> start time of those that are there: what a later process of the same pid does not have."""
    found = (ctx.ports.kernel.process(pid) for pid in pids)
    return {info.pid: info.start for info in found if info is not None}


def still_there(ctx: SlotContext, pid: int, tree: Mapping[int, int]) -> bool:
    """Of a pid that NVML lists: one that procfs does not show is on its way out, a reused one is somebody else."""
    info = ctx.ports.kernel.process(pid)
    return info is None or pid not in tree or tree[pid] == info.start


async def end_orphans(ctx: SlotContext, run: SwitchRun, snapshot: GpuSnapshot) -> int:
    """How many were killed now. Each is killed once: what survives that is told by whoever waits for its memory."""
    count = 0
    for suspect in await _of_units_that_are_down(ctx, list(_suspects(ctx, run, snapshot))):
        # One that is on several GPUs is listed for each of them.
        if suspect.process.pid in run.ended or not await _is_orphan(ctx, suspect):
            continue
        if ctx.ports.kernel.kill(suspect.process.pid, suspect.process.start):
            _tell(ctx, suspect)
            count += 1
        run.ended[suspect.process.pid] = suspect.process.start
    return count


def _suspects(ctx: SlotContext, run: SwitchRun, snapshot: GpuSnapshot) -> Iterable[Suspect]:
    units = {model.unit: model for model in ctx.models.values()}
    for held in snapshot.processes:
        info = ctx.ports.kernel.process(held.pid) if held.gpu in ctx.slot.gpus else None
        if info is None:
            continue
        unit = ctx.ports.kernel.unit_of(held.pid)
        if unit in units:
            yield Suspect(info, units[unit], held, ours=False)
            continue
        for model, tree in ((run.previous, run.previous_tree), (run.target, run.target_tree)):
            if model is not None and tree.get(info.pid) == info.start and info.title.startswith(TITLE):
                yield Suspect(info, model, held, ours=True)
                break


async def _of_units_that_are_down(ctx: SlotContext, suspects: list[Suspect]) -> list[Suspect]:
    """By one question for all: mostly these are sleepers, and there is nothing to end."""
    try:
        states = await ctx.briefs() if suspects else {}
    except AgentdError:
        return []
    return [suspect for suspect in suspects if not states[suspect.model.name].active_state.up]


async def _is_orphan(ctx: SlotContext, suspect: Suspect) -> bool:
    """Asked of systemd each time: a unit that runs, starts, stops or sleeps has no orphans. A unit of the same name in
    another manager has another cgroup."""
    try:
        state = await ctx.ports.control.show(suspect.model.unit)
    except AgentdError:
        return False
    if state.active_state.up:
        return False
    return suspect.ours or suspect.process.pid in ctx.ports.kernel.cgroup_pids(state.control_group)


def _tell(ctx: SlotContext, suspect: Suspect) -> None:
    unit, info, held = suspect.model.unit, suspect.process, suspect.held
    ctx.counters.add("agentd_orphan_killed", unit)
    what = f"{told_bytes(held.used)} of GPU {held.gpu}" if held.used else f"GPU {held.gpu}"
    ctx.tell(
        "orphan.killed", suspect.model.name,
        f"{info.comm} (pid {info.pid}) outlived {unit}, still held {what}, and was killed",
        slot=ctx.name, unit=unit, pid=info.pid,
    )  # fmt: skip
