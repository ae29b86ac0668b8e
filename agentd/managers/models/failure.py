"""Why a model's unit is not running, in one sentence with its last words."""

from __future__ import annotations

import asyncio

from agentd.core.explain import explain
from agentd.managers.models.context import ModelUnit, SlotContext, wait_any
from agentd.types import ActiveState, JobResult, UnitState

JOURNAL_LINES = 100
"""vLLM writes its root cause well above its last traceback."""
SETTLE_SECONDS = 2.0


async def why(ctx: SlotContext, model: ModelUnit, state: UnitState, result: JobResult | None) -> str:
    """Why the unit is not running, in one sentence with its last words."""
    state = await final_state(ctx, model, state)
    lines = await ctx.ports.journal.tail(
        model.unit, lines=JOURNAL_LINES, invocation=state.invocation_id, pid=state.exec_pid
    )
    if result is JobResult.CANCELED or (result is None and not state.active_state.up and state.result == "success"):
        return f"{model.unit} was stopped by somebody else while it started"
    return explain(state, lines, result)


async def final_state(ctx: SlotContext, model: ModelUnit, state: UnitState) -> UnitState:
    """The kernel says that the process is gone some moments before systemd has drawn its conclusion."""
    wake = ctx.wakes.register(model.unit)
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while state.active_state in (ActiveState.ACTIVE, ActiveState.ACTIVATING, ActiveState.DEACTIVATING):
                if state.sub_state == "auto-restart":
                    break
                await wait_any(wake, 0.05)
                state = await ctx.ports.control.show(model.unit)
    except TimeoutError:
        pass
    finally:
        ctx.wakes.unregister(model.unit, wake)
    return state
