"""PRECHECK: everything that can be known to fail before the running model is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agentd.core.quantities import format_seconds, told_bytes
from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.gpu import GpuSnapshot
from agentd.managers.models import budget, eviction
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.draining import count
from agentd.managers.models.endpoint import Endpoint
from agentd.managers.models.holders import missing_gpus, unlisted
from agentd.managers.models.listening import place_check
from agentd.managers.models.orphans import tree_of
from agentd.managers.models.precheck_files import files_check
from agentd.types import UnitState
from agentd.wire import PrecheckItem


async def precheck(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS, or REFUSE naming every check that failed."""
    if run.target is None:
        await _remember_previous(ctx, run)
        return Step(Signal.PASS, "nothing to start")
    found, _, _ = await asyncio.gather(checks(ctx, run.target, run), _remember_previous(ctx, run), count(ctx, run))
    failed = [item for item in found if not item.ok]
    if failed:
        return Step(Signal.REFUSE, cause="; ".join(item.detail for item in failed))
    return Step(Signal.PASS)


async def checks(ctx: SlotContext, target: ModelUnit, run: SwitchRun | None = None) -> tuple[PrecheckItem, ...]:
    """Every check with what it found; used by the dry run too, which has no `run` that could remember anything."""
    ports = ctx.ports
    if target.off:
        return (PrecheckItem("enabled", False, target.off),)
    if not ports.control.connected:
        return (PrecheckItem("systemd", False, "the connection to systemd is down"),)
    (state, vram), path, files, key, runtimes = await asyncio.gather(
        _unit_and_vram(ctx, target), _path(ctx, target), files_check(ctx, target, dry=run is None), _key(ctx, target),
        eviction.checks(ctx),
    )  # fmt: skip
    if run is not None:
        run.commands[target.name] = state.exec_start
    program = await _program(ctx, state)
    place, memory = place_check(ctx, target), _memory(ctx, target)
    found = (_unit(state), program, path, files, place, vram, memory, key, *runtimes)
    return tuple(item for item in found if item)


async def _remember_previous(ctx: SlotContext, run: SwitchRun) -> None:
    """Whose processes must be gone later, and whose memory back; read while they still run."""
    asked = ctx.ports.control.show(run.previous.unit) if run.previous is not None else _nobody()
    snapshot, state = await asyncio.gather(ctx.ports.gpus.read(), asked)
    run.unlisted = None if snapshot.trouble(ctx.slot.gpus) else unlisted(snapshot)
    if run.previous is None or state is None:
        return
    run.previous_pids = ctx.ports.kernel.cgroup_pids(state.control_group) if state.control_group else frozenset()
    run.previous_tree = tree_of(ctx, run.previous_pids)
    run.commands[run.previous.name] = state.exec_start


async def _nobody() -> None:
    """What systemd says where there is no previous model."""


async def _unit_and_vram(ctx: SlotContext, target: ModelUnit) -> tuple[UnitState, PrecheckItem | None]:
    """What it needs of a GPU is in the unit's command line."""
    state, snapshot = await asyncio.gather(ctx.ports.control.show(target.unit), ctx.ports.gpus.read())
    return state, _vram(ctx, target, state.exec_start, snapshot)


def _unit(state: UnitState) -> PrecheckItem:
    match state.load_state:
        case "loaded":
            note = " (its file changed on disk: daemon-reload is due)" if state.need_daemon_reload else ""
            return PrecheckItem("unit", True, f"{state.name} is loadable{note}")
        case "masked":
            detail = f"{state.name} is masked; unmask it with: systemctl --user unmask {state.name}"
        case "not-found":
            detail = f"{state.name} does not exist; systemd finds no unit file of that name"
        case other:
            detail = f"{state.name} cannot be loaded ({other}{': ' + state.load_error if state.load_error else ''})"
    return PrecheckItem("unit", False, detail)


async def _program(ctx: SlotContext, state: UnitState) -> PrecheckItem | None:
    """Only said when it is missing: then neither this model nor, mostly, the one before could be started again."""
    program = state.exec_start[0] if state.exec_start else ""
    if not program.startswith("/") or await ctx.ports.files.exists(program):
        return None
    return PrecheckItem("program", False, f"the program of {state.name} is not there: {program}")


async def _path(ctx: SlotContext, target: ModelUnit) -> PrecheckItem | None:
    path = target.spec.path
    if not path:
        return None
    there = await ctx.ports.files.exists(path)
    return PrecheckItem("path", there, f"model path {path} {'exists' if there else 'does not exist'}")


def _vram(ctx: SlotContext, target: ModelUnit, argv: tuple[str, ...], snapshot: GpuSnapshot) -> PrecheckItem | None:
    if snapshot.source == "none" or ctx.slot.vram_probe == "none":
        return PrecheckItem("vram", True, "GPU memory is not measured here") if target.spec.vram else None
    trouble = snapshot.trouble(ctx.slot.gpus)
    if trouble:
        return PrecheckItem("vram", False, f"cannot read GPU memory: {trouble}")
    missing = missing_gpus(ctx.slot, snapshot)
    if missing:
        return PrecheckItem("vram", False, f"GPU {', '.join(map(str, missing))} of slot {ctx.name} is not there")
    found, share = budget.rooms(ctx, target, argv, snapshot), budget.asked(ctx, target, argv)
    lines = [budget.told(ctx, target, room, share) for room in found]
    return PrecheckItem("vram", all(room.fits for room in found), "; ".join(lines))


def _memory(ctx: SlotContext, target: ModelUnit) -> PrecheckItem | None:
    """One that sleeps has what it needs: its weights, or at level 2 room for them in its process."""
    need = target.spec.host_memory
    if not need or target.name in ctx.sleeping:
        return None
    have = ctx.ports.kernel.memory_available()
    detail = f"host memory: {target.name} needs {told_bytes(need)}, {told_bytes(have)} is available"
    return PrecheckItem("host-memory", have >= need, detail)


async def _key(ctx: SlotContext, target: ModelUnit) -> PrecheckItem | None:
    if not target.spec.api_key_file:
        return None
    try:
        await Endpoint(ctx.ports, target).key()
    except AgentdError as error:
        return PrecheckItem("api-key", False, error.message)
    return PrecheckItem("api-key", True, f"API key found in {target.spec.api_key_file}")


def cooldown_refusal(target: str, cooldowns: Mapping[str, float], now: float) -> str:
    """Why a plain switch to `target` is refused now; "" when it is not."""
    left = cooldowns.get(target, 0.0) - now
    if left <= 0:
        return ""
    more = format_seconds(max(1, round(left)))
    return f"{target} failed before and is cooling down for {more} more; --force tries at once"
