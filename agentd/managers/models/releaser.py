"""Ways to take the GPU from a model and to give it back: by a stop, or by vLLM's sleep mode.

Another way has to answer the same three questions. Checkpointing the process (cuda-checkpoint, or a sleep backend of
vLLM that does it) would have to: admit only one process on one GPU with as much main memory free as it holds there, and
a driver that restores what it took; leave nothing on the GPU or raise; and know that a process in the state between is
lost, since a failed checkpoint does not put it back, so that it is stopped and started anew like a sleeper that fails.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from agentd.core.sleep_policy import Question, crowded, level_of, refusal
from agentd.errors import AgentdError
from agentd.gpu import GpuSnapshot
from agentd.managers.models import sleeping, waking
from agentd.managers.models.admin import Admin
from agentd.managers.models.admission import is_measured, rooms
from agentd.managers.models.context import ModelUnit, SlotContext, SwitchRun
from agentd.managers.models.endpoint import QUICK
from agentd.managers.models.release import stop_unit
from agentd.types import UnitState

CUT_OFF_PATIENCE = 15.0
"""Seconds for a server whose requests are cut off: vLLM waits without a limit for a client that does not leave."""


class Releaser(Protocol):
    """A strategy; holds no state of its own."""

    @property
    def name(self) -> str: ...

    def admit(self, asked: Question, /) -> str:
        """Why it cannot be used for the model that was asked about, in one sentence; "" when it can."""
        ...

    async def release(self, ctx: SlotContext, run: SwitchRun, model: ModelUnit, /) -> str:
        """The GPU is free of the model when it returns; the detail of the phase. Raises AgentdError: then the model
        is in no state to be relied on, and has to be stopped."""
        ...

    async def restore(self, ctx: SlotContext, model: ModelUnit, state: UnitState, /) -> str:
        """The model serves again; the detail of the phase. `state`: of its unit, as it sleeps. Raises AgentdError: as
        for `release`."""
        ...


@dataclass(frozen=True, slots=True)
class Stopping:
    """Always possible, and always right; what comes back is a cold start, which is START's own business."""

    name: str = "stop"

    def admit(self, _asked: Question) -> str:
        return ""

    async def release(self, ctx: SlotContext, run: SwitchRun, model: ModelUnit) -> str:
        state = await ctx.ports.control.show(model.unit)
        cut_off = run.cut_off and model is run.previous
        if cut_off:
            run.gated = True  # So that it takes requests again should it stay after all.
            with suppress(AgentdError):  # Where there is no such endpoint, the time below decides.
                await Admin(ctx.ports, model).hold("abort", QUICK)
        forced = await stop_unit(ctx, model, state.control_group, CUT_OFF_PATIENCE if cut_off else None)
        await ctx.sleepers.forget(model.name)
        return forced or f"{model.unit} is stopped"

    async def restore(self, _ctx: SlotContext, model: ModelUnit, _state: UnitState) -> str:
        raise AgentdError("not-asleep", f"{model.name} was stopped; it has to be started")


@dataclass(frozen=True, slots=True)
class Sleeping:
    """vLLM's sleep mode: level 1 keeps the weights in main memory, level 2 reads them from the disk again."""

    level: int

    @property
    def name(self) -> str:
        return f"sleep{self.level}"

    def admit(self, asked: Question) -> str:
        return refusal(asked)

    async def release(self, ctx: SlotContext, run: SwitchRun, model: ModelUnit) -> str:
        try:
            slept = await sleeping.put_to_sleep(ctx, model, self.level)
        except AgentdError as error:
            await sleeping.failed(ctx, model, self.level, error, after="sleep")
            raise
        ctx.facts.aside(sleeping.learn_slept(ctx, model, slept))
        await self._leaves_room(ctx, run, model, slept.left)
        run.slept = self.level
        return f"{model.name} {slept.told}"

    async def _leaves_room(self, ctx: SlotContext, run: SwitchRun, model: ModelUnit, left: GpuSnapshot) -> None:
        """What was expected of the rest is known now. Too much of it is no failure of the sleep."""
        if not is_measured(ctx, left):
            return
        lack = crowded(model.name, await rooms(ctx, run, model, self.level, left, asleep=True))
        if lack:
            sleeping.tell_fallback(ctx, model, self.level, "no-room", lack, instead="stopped")
            raise AgentdError("no-room", lack)

    async def restore(self, ctx: SlotContext, model: ModelUnit, state: UnitState) -> str:
        try:
            woken = await waking.wake(ctx, model, state)
        except AgentdError as error:
            await sleeping.failed(ctx, model, self.level, error, after="wake")
            raise
        return f"{model.name} {woken.told}"


STOP = Stopping()


def choose(asked: Question) -> tuple[Releaser, str]:
    """The way for the model that was asked about, and why it is not the configured one ("" when it is)."""
    level = level_of(asked.switch)
    if not level or asked.kind not in ("switch", "sleep-check"):
        return STOP, ""
    way = Sleeping(level)
    why = way.admit(asked)
    return (STOP, why) if why else (way, "")


def restorer(ctx: SlotContext, model: ModelUnit) -> Sleeping:
    """For a model that is found asleep; a level that nobody noted is 0."""
    return Sleeping(ctx.sleepers.levels.get(model.name, 0))
