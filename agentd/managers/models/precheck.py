"""PRECHECK: everything that can be known to fail before the running model is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.endpoint import Endpoint
from agentd.managers.models.vram import foreign_memory, told_bytes, unlisted
from agentd.types import UnitState
from agentd.wire import PrecheckItem


async def precheck(ctx: SlotContext, run: SwitchRun) -> Step:
    """PASS, or REFUSE naming every check that failed."""
    if run.target is None:
        await _remember_previous(ctx, run)
        return Step(Signal.PASS, "nothing to start")
    found, _ = await asyncio.gather(checks(ctx, run.target), _remember_previous(ctx, run))
    failed = [item for item in found if not item.ok]
    if failed:
        return Step(Signal.REFUSE, cause="; ".join(item.detail for item in failed))
    return Step(Signal.PASS)


async def checks(ctx: SlotContext, target: ModelUnit) -> tuple[PrecheckItem, ...]:
    """Every check with what it found; used by the dry run too."""
    ports = ctx.ports
    if not ports.control.connected:
        return (PrecheckItem("systemd", False, "the connection to systemd is down"),)
    state, path, vram, key = await asyncio.gather(
        ports.control.show(target.unit), _path(ctx, target), _vram(ctx, target), _key(ctx, target)
    )
    return tuple(item for item in (_unit(state), path, _port(ctx, target), vram, _memory(ctx, target), key) if item)


async def _remember_previous(ctx: SlotContext, run: SwitchRun) -> None:
    """Whose processes must be gone later, and whose memory back; read while they still run."""
    snapshot = await ctx.ports.gpus.read()
    run.unlisted = None if snapshot.error else unlisted(snapshot)
    if run.previous is None:
        return
    state = await ctx.ports.control.show(run.previous.unit)
    run.previous_cgroup = state.control_group
    run.previous_pids = ctx.ports.kernel.cgroup_pids(state.control_group) if state.control_group else frozenset()


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


async def _path(ctx: SlotContext, target: ModelUnit) -> PrecheckItem | None:
    path = target.spec.path
    if not path:
        return None
    there = await ctx.ports.files.exists(path)
    return PrecheckItem("path", there, f"model path {path} {'exists' if there else 'does not exist'}")


def _port(ctx: SlotContext, target: ModelUnit) -> PrecheckItem:
    holder = ctx.ports.kernel.port_holder(target.port)
    ours = {m.unit for m in ctx.models.values()}
    if holder is None or holder.unit in ours:
        return PrecheckItem("port", True, f"port {target.port} is free for {target.name}")
    who = f"{holder.comm} (pid {holder.pid}{', ' + holder.unit if holder.unit else ''})" if holder.pid else "a stranger"
    return PrecheckItem("port", False, f"port {target.port} is taken by {who}")


async def _vram(ctx: SlotContext, target: ModelUnit) -> PrecheckItem | None:
    need = target.spec.vram
    snapshot = await ctx.ports.gpus.read()
    if snapshot.source == "none":
        return PrecheckItem("vram", True, "GPU memory is not measured here") if need else None
    if snapshot.error:
        return PrecheckItem("vram", False, f"cannot read GPU memory: {snapshot.error}")
    present = {g.index: g for g in snapshot.gpus}
    missing = [str(i) for i in ctx.slot.gpus if i not in present]
    if missing:
        return PrecheckItem("vram", False, f"GPU {', '.join(missing)} of slot {ctx.name} is not there")
    if not need:
        return None
    foreign = foreign_memory(ctx, snapshot)
    lines, ok = [], True
    for index in ctx.slot.gpus:
        budget = present[index].total - sum(h.used for h in foreign if h.gpu == index)
        fits = budget >= need
        ok = ok and fits
        held = ", ".join(f"{h.owner} {told_bytes(h.used)}" for h in foreign if h.gpu == index)
        lines.append(
            f"GPU {index}: {target.name} needs {told_bytes(need)}, {told_bytes(budget)} can be had"
            + (f" (held by others: {held})" if held else "")
        )
    return PrecheckItem("vram", ok, "; ".join(lines))


def _memory(ctx: SlotContext, target: ModelUnit) -> PrecheckItem | None:
    need = target.spec.host_memory
    if not need:
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
    return f"{target} failed before and is cooling down for {left:.0f} s more; --force tries at once"
