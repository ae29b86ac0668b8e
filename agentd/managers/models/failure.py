"""Why a model's unit is not running, in one sentence with its last words and, for want of memory, what would help."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from agentd.core.explain import explain
from agentd.core.out_of_memory import Diagnosis, diagnose
from agentd.core.quantities import told_bytes
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, wait_any
from agentd.managers.models.holders import holders
from agentd.types import ActiveState, JobResult, UnitState

JOURNAL_LINES = 300
"""vLLM writes its root cause well above its last traceback."""
SETTLE_SECONDS = 2.0


class StartFailed(AgentdError):
    """A start that came to nothing; `diagnosis` where it was for want of memory."""

    def __init__(self, message: str, diagnosis: Diagnosis | None) -> None:
        super().__init__("start-failed", message)
        self.diagnosis = diagnosis


async def start_failed(
    ctx: SlotContext, model: ModelUnit, state: UnitState, result: JobResult | None, pid: int = 0
) -> StartFailed:
    """To be raised by who waited for the start. `pid`: the main process that has ended, where there was one."""
    state = await final_state(ctx, model, state, pid)
    if _another(state, pid):
        # What systemd says by now is about the next run; of the last one there are only its lines.
        last = dataclasses.replace(state, active_state=ActiveState.FAILED, invocation_id="", exec_pid=pid)
        text, found = await _told(ctx, model, last, await _journal(ctx, model, last), result)
        return StartFailed(f"{text} (systemd has started it again)", found)
    lines = await _journal(ctx, model, state)
    if result is JobResult.CANCELED or (result is None and not state.active_state.up and state.result == "success"):
        return StartFailed(f"{model.unit} was stopped by somebody else while it started", None)
    return StartFailed(*await _told(ctx, model, state, lines, result))


async def why(ctx: SlotContext, model: ModelUnit, state: UnitState, result: JobResult | None, pid: int = 0) -> str:
    """Why the unit is not running, in one sentence with its last words."""
    return (await start_failed(ctx, model, state, result, pid)).message


def _another(state: UnitState, pid: int) -> bool:
    return pid > 0 and state.main_pid not in (0, pid)


async def why_ended(ctx: SlotContext, model: ModelUnit, state: UnitState) -> str:
    """The same of a model that has served: `state` is its last."""
    text, _ = await _told(ctx, model, state, await _journal(ctx, model, state), None)
    return text


async def _journal(ctx: SlotContext, model: ModelUnit, state: UnitState) -> Sequence[str]:
    return await ctx.ports.journal.tail(
        model.unit, lines=JOURNAL_LINES, invocation=state.invocation_id, pid=state.exec_pid
    )


async def _told(
    ctx: SlotContext, model: ModelUnit, state: UnitState, lines: Sequence[str], result: JobResult | None
) -> tuple[str, Diagnosis | None]:
    found = diagnose(lines, state)
    if found is None:
        return explain(state, lines, result), None
    ctx.counters.add("agentd_model_out_of_memory", model.name, found.kind)
    if found.kind == "host" and not model.spec.host_memory:
        hint = "; with host_memory in its configuration a switch is refused before anything is stopped"
        return explain(state, lines, result) + hint, found
    return explain(state, lines, result, await _beside(ctx, model)), found


async def _beside(ctx: SlotContext, model: ModelUnit) -> tuple[str, ...]:
    """Who else holds a good deal of the slot's GPUs at this moment, and how it could be made to leave."""
    snapshot = await ctx.ports.gpus.read()
    found = [h for h in holders(ctx, snapshot) if h.owner != model.unit and h.used >= ctx.slot.vram_margin]
    return tuple(
        f"{ctx.neighbours.get(h.owner) or h.owner} ({told_bytes(h.used)}{_way_out(ctx, h.owner)})" for h in found
    )


def _way_out(ctx: SlotContext, owner: str) -> str:
    name, policy = next(((n, r.spec.policy) for n, r in ctx.runtimes.items() if r.unit == owner), ("", ""))
    asleep = any(ctx.models[n].unit == owner for n in ctx.sleeping)
    if asleep:
        return ", asleep"
    return f', or set the policy of {name} to "evict" or "cpu_only"' if policy == "ignore" else ""


async def final_state(ctx: SlotContext, model: ModelUnit, state: UnitState, pid: int = 0) -> UnitState:
    """The kernel says that the process is gone some moments before systemd has drawn its conclusion."""
    wake = ctx.wakes.register(model.unit)
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while state.active_state in (ActiveState.ACTIVE, ActiveState.ACTIVATING, ActiveState.DEACTIVATING):
                if state.sub_state == "auto-restart" or _another(state, pid):
                    break
                await wait_any(wake, 0.05)
                state = await ctx.ports.control.show(model.unit)
    except TimeoutError:
        pass
    finally:
        ctx.wakes.unregister(model.unit, wake)
    return state
