"""A start that died because GPU memory was still moving is tried once more within its change.

vLLM checks free memory at its start and again while it profiles: what another process gives back meanwhile makes it
fail, and a moment later nothing stands in its way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentd.core.out_of_memory import PASSING
from agentd.core.switch import Signal
from agentd.engine.runner import Step
from agentd.errors import AgentdError
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.failure import StartFailed
from agentd.managers.models.orphans import tree_of
from agentd.managers.models.release import LOADING_PATIENCE, stop_unit
from agentd.managers.models.vram import wait_vram

T = TypeVar("T")
Effect = Callable[[SlotContext, SwitchRun], Awaitable[Step]]


def tried_again(effect: Effect) -> Effect:
    """The phase (START, WAIT_READY) with its second try: RETRY leads back to EVICT, with the target stopped."""

    async def guarded(ctx: SlotContext, run: SwitchRun) -> Step:
        try:
            return await effect(ctx, run)
        except StartFailed as error:
            if run.target is None or run.cancelled.is_set() or not worth(run, run.target, error):
                raise
            await give_up(ctx, run, run.target, error)
            return Step(Signal.RETRY, f"{error.message}; it is started once more")

    return guarded


async def once_more(
    ctx: SlotContext,
    run: SwitchRun,
    model: ModelUnit,
    attempt: Callable[[], Awaitable[T]],
    again: Callable[[], Awaitable[T]],
) -> T:
    """The same within one phase, for the way back: `attempt`, and `again` where that died of moving memory."""
    try:
        return await attempt()
    except StartFailed as error:
        if not worth(run, model, error):
            raise
        pids = await give_up(ctx, run, model, error)
        step = await wait_vram(ctx, run, model, pids)
        if step.signal is Signal.FAIL:
            raise AgentdError("vram-timeout", step.cause) from error
    return await again()


def worth(run: SwitchRun, model: ModelUnit, error: StartFailed) -> bool:
    """Once for each model in a change, and only for what passes by itself."""
    passing = error.diagnosis is not None and error.diagnosis.kind in PASSING
    return passing and model.name not in run.retried


async def give_up(ctx: SlotContext, run: SwitchRun, model: ModelUnit, error: StartFailed) -> frozenset[int]:
    """Stop what is left of the first try, and return its pids; systemd may be about to start the unit again itself."""
    assert error.diagnosis is not None
    run.retried.add(model.name)
    state = await ctx.ports.control.show(model.unit)
    tree = tree_of(ctx, ctx.ports.kernel.cgroup_pids(state.control_group))
    if model is run.target:
        run.target_tree = tree
        run.target_pid, run.start_job = 0, None
    await stop_unit(ctx, model, state.control_group, LOADING_PATIENCE)
    ctx.counters.add("agentd_start_retry", model.name, error.diagnosis.kind)
    ctx.tell(
        "start.retried", model.name, f"{model.name} is started once more: {error.message}",
        slot=ctx.name, change=run.change.id,
    )  # fmt: skip
    return frozenset(tree)
