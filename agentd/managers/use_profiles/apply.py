"""Another profile put to use as one change: selected, read, then services and models brought to what it says.

Until the selection is written nothing was touched. From then on whatever goes wrong brings the profile before back,
with what ran under it.
"""

from __future__ import annotations

import logging

from agentd.core.settings import LoadedConfig
from agentd.core.use_plan import NONE, ProfilePlan, Running
from agentd.core.use_profiles import selection_text
from agentd.engine.steps import Ending, Progress
from agentd.errors import AgentdError
from agentd.managers.use_profiles.acts import Acts
from agentd.managers.use_profiles.context import UsePorts
from agentd.managers.use_profiles.noted import noted
from agentd.types import ExitCode, Outcome

log = logging.getLogger(__name__)

SELECT, RELOAD, LIMITS, MODELS, STOP, START, UNDO = "select", "reload", "limits", "models", "stop", "start", "undo"


class Applier:
    """One run for each change. `now`: what was up when the plan was made."""

    def __init__(self, ports: UsePorts, new: LoadedConfig, plan: ProfilePlan, now: Running, progress: Progress) -> None:
        self._ports = ports
        self._acts = Acts(ports)
        self._old = ports.in_force()
        self._new = new
        self._plan = plan
        self._now = now
        self._progress = progress
        self._text: str | None = None
        self._stopped: list[str] = []
        self._started: list[str] = []
        self._moved = False
        self._note = ""

    async def run(self) -> Ending:
        """Raises AgentdError when it is refused: then nothing was touched."""
        self._text = await self._ports.files.read(self._ports.selection)
        await self._progress(SELECT, noted(self._plan, self._now))
        await self._ports.files.apply({self._ports.selection: selection_text(self._plan.profile)})
        try:
            await self._forward()
        except AgentdError as error:
            return await self._back(error)
        return Ending(Outcome.DONE, self._told())

    # -- the way forward --------------------------------------------------------------------------------------

    async def _forward(self) -> None:
        plan = self._plan
        await self._progress(RELOAD, "agentd reads its configuration with it")
        await self._ports.reload()
        if plan.units:
            await self._progress(LIMITS, f"drop-ins of {', '.join(plan.units)}")
            self._note = await self._ports.limits(plan.units)
        for model in (*plan.unload, *plan.switch):
            self._moved = True
            verb = "is unloaded" if model in plan.unload else "becomes resident"
            await self._progress(MODELS, f"{model} {verb}")
            if model in plan.unload:
                await self._acts.stop(self._new.settings.services[model], model)
            else:
                await self._acts.switch(model)
        await self._stop_all(await self._still_up())
        for name in plan.start:
            await self._progress(START, name)
            self._started.append(name)
            await self._acts.start(self._new.settings.services[name].unit)

    async def _still_up(self) -> list[str]:
        """A model that gave way to another one may be asleep now; switched off means that its unit is down."""
        gone = [n for n in self._now.residents.values() if n and n not in self._plan.stop]
        services = self._new.settings.services
        gave_way = [n for n in gone if n in services and not services[n].enabled]
        up = (await self._ports.running(self._new)).up if gave_way else frozenset()
        return [*self._plan.stop, *(name for name in gave_way if name in up)]

    async def _stop_all(self, names: list[str]) -> None:
        for name in names:
            await self._progress(STOP, name)
            self._stopped.append(name)
            await self._acts.stop(self._new.settings.services[name], name)

    def _told(self) -> str:
        plan = self._plan
        acts = {"stopped": plan.stop, "unloaded": plan.unload, "resident": plan.switch, "started": plan.start}
        words = [f"{word}: {', '.join(names)}" for word, names in acts.items() if names]
        changed = len(plan.settings)
        words += [f"{changed} setting{'s' if changed > 1 else ''} changed"] if changed else []
        words += [self._note] if self._note else []
        words += self._ports.unheeded()
        what = f"profile {plan.profile} is in force" if plan.profile else "no profile is in force"
        return "; ".join([what, *words])

    # -- the way back -----------------------------------------------------------------------------------------

    async def _back(self, error: AgentdError) -> Ending:
        name, before, cause = self._plan.profile or NONE, self._plan.previous or NONE, error.message
        lost: list[str] = []
        try:
            await self._progress(UNDO, f"profile {before} is put back: {cause}")
        except AgentdError as again:  # The journal is full: the way back is gone all the same.
            log.warning("profile.not-saved", extra={"data": {"error": again.message}})
        for act in (self._reselect, self._restart, self._models_back):
            try:
                await act()
            except AgentdError as again:
                lost.append(again.message)
        if lost:
            text = f"profile {name} failed, and profile {before} could not be brought back whole: {'; '.join(lost)}"
            return Ending(Outcome.DEGRADED, f"{text}; what failed first: {cause}", ExitCode.DEGRADED, cause)
        text = f"profile {before} is in force again; with profile {name}: {cause}"
        return Ending(Outcome.ROLLED_BACK, text, ExitCode.ROLLED_BACK, cause)

    async def _reselect(self) -> None:
        await self._ports.files.apply({self._ports.selection: self._text})
        await self._ports.reload()
        if self._plan.units:
            await self._ports.limits(self._plan.units)

    async def _restart(self) -> None:
        """Also what failed half-way: a stop whose job failed may have stopped it all the same. What was started may
        be in the new configuration alone."""
        old, new = self._old.settings.services, self._new.settings.services
        for name in reversed(self._started):
            if name not in self._now.up:
                await self._acts.stop(new[name], name)
        for name in reversed(self._stopped):
            if name in old and old[name].model is None and name in self._now.up:
                await self._acts.start(old[name].unit)

    async def _models_back(self) -> None:
        if not self._moved:
            return
        residents = {slot.name: slot.resident for slot in self._ports.world.slots}
        for slot, model in self._now.residents.items():
            if residents.get(slot) == model or slot not in self._old.settings.slots:
                continue
            if model is not None:
                await self._acts.switch(model)
            elif residents.get(slot) in self._plan.switch:
                name = str(residents[slot])
                await self._acts.stop(self._new.settings.services[name], name)  # The old one may not know it.
