"""The profile of use: planned, changed by one journaled change at a time, and put in order after a kill."""

from __future__ import annotations

import asyncio
import logging

from agentd.core.settings import LoadedConfig
from agentd.core.use_plan import NONE, ProfilePlan, ProfileRequest, Running, plan_use
from agentd.core.use_profiles import selected_name, selection_text
from agentd.engine.steps import Ending, Progress, Work, ended
from agentd.errors import AgentdError, ConflictError
from agentd.managers.use_profiles.apply import SELECT, Applier
from agentd.managers.use_profiles.context import UsePorts
from agentd.managers.use_profiles.noted import noted
from agentd.managers.use_profiles.settle import Settler
from agentd.types import Change, ExitCode, Outcome

log = logging.getLogger(__name__)

KIND = "profile"


class ProfileActions:
    def __init__(self, ports: UsePorts) -> None:
        self._ports = ports
        self._settler = Settler(ports)
        self._running: tuple[Change, asyncio.Task[Change]] | None = None
        self._recovering: tuple[str, asyncio.Task[None]] | None = None

    def running(self) -> str:
        """Id of the change that is at work; "" when none is."""
        for found in (self._running, self._recovering):
            if found is not None and not found[1].done():
                return found[0] if isinstance(found[0], str) else found[0].id
        return ""

    async def plan(self, request: ProfileRequest) -> ProfilePlan:
        """What a change would do; nothing is changed. Raises ConfigError, AgentdError("profile-not-found")."""
        new = await self._ports.load(request.name)
        return plan_use(self._ports.in_force(), new, await self._ports.running(new))

    async def use(self, request: ProfileRequest) -> Change:
        """Begun. Raises ConfigError with all that is wrong, ConflictError, AgentdError; then nothing has changed."""
        new = await self._ports.load(request.name)
        now = await self._ports.running(new)
        self._refuse_busy(plan_use(self._ports.in_force(), new, now), now)
        self._free()

        async def work(progress: Progress) -> Ending:
            await progress("plan", f"profile {new.profile or NONE}")
            now = await self._ports.running(new)
            plan = plan_use(self._ports.in_force(), new, now)
            if plan.empty:
                return Ending(Outcome.ALREADY, f"{_in_force(new.profile)} already")
            self._refuse_busy(plan, now)
            ending = await Applier(self._ports, new, plan, now, progress).run()
            await self._applied()
            return ending

        return self._begin(new, self._ports.in_force().profile, work)

    async def close(self) -> None:
        await ended(self._running[1] if self._running is not None else None)
        if self._recovering is not None:
            await ended(self._recovering[1])  # type: ignore[arg-type]

    # -- at the start -----------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """What an earlier agentd left open, and what was selected while none ran, is put in order: in a task, since
        services are started. Raises AgentdError when the journal cannot be read."""
        open_changes = [c for c in await self._ports.steps.store.open_changes() if c.kind == KIND]
        if open_changes:
            task = asyncio.ensure_future(self._recovered(open_changes))
            self._recovering = (open_changes[0].id, task)
            return
        applied = selected_name(await self._ports.files.read(self._ports.applied) or "") or ""
        if applied != self._ports.in_force().profile:
            self._begin(self._ports.in_force(), applied, lambda progress: self._selected(applied, progress))

    async def _recovered(self, changes: list[Change]) -> None:
        for change in changes:
            try:
                told = "; ".join(await self._settler.cut_off(change))
            except AgentdError as error:
                told = f"not everything could be put in order: {error.message}"
            except Exception:  # Nobody awaits this task.
                log.exception("profile.internal")
                told = "it could not be put in order, see the log of agentd"
            text = f"agentd was stopped meanwhile; {_in_force(self._ports.in_force().profile)}; {told}"
            await self._ports.steps.cut_off(change, text)
        await self._applied()

    async def _selected(self, applied: str, progress: Progress) -> Ending:
        """The profile was chosen without us. What it needs is not undone when a part of it fails: it is told."""
        new = self._ports.in_force()
        try:
            old = await self._ports.load(applied)
        except AgentdError:  # It is not there any more.
            old = await self._ports.load("")
        now = await self._ports.running(new)
        plan = plan_use(old, new, now)
        await progress(SELECT, noted(plan, now))
        try:
            done = await self._settler.selected(plan)
        except AgentdError as error:
            text = f"{_in_force(new.profile)}, but not in full: {error.message}"
            return Ending(Outcome.DEGRADED, text, ExitCode.DEGRADED, error.message)
        await self._applied()
        return Ending(Outcome.DONE, "; ".join([_in_force(new.profile), *done]))

    async def _applied(self) -> None:
        """Noted for the next start; without it, that looks once more."""
        try:
            await self._ports.files.apply({self._ports.applied: selection_text(self._ports.in_force().profile)})
        except AgentdError as error:
            log.warning("profile.not-noted", extra={"data": {"error": error.message}})

    # -- inside -----------------------------------------------------------------------------------------------

    def _begin(self, new: LoadedConfig, previous: str, work: Work) -> Change:
        self._running = self._ports.steps.begin(KIND, new.profile or NONE, work, previous=previous or NONE)
        return self._running[0]

    def _free(self) -> None:
        running = self.running()
        if running:
            raise ConflictError(f"change {running} is at work on the profile", running)

    def _refuse_busy(self, plan: ProfilePlan, now: Running) -> None:
        """Raises ConflictError: what is at work now would be cut off, or would undo half of this."""
        settings = self._ports.in_force().settings
        for name in plan.stop:
            if name in settings.services:
                self._ports.check_free(settings.services[name].unit)
        models = {*plan.unload, *plan.switch}
        for slot in self._ports.world.slots:
            if slot.change is not None and (models & set(slot.models) or models & {now.residents.get(slot.name)}):
                raise ConflictError(f"slot {slot.name} is busy: change {slot.change} is in {slot.state}", slot.change)


def _in_force(profile: str) -> str:
    return f"profile {profile} is in force" if profile else "no profile is in force"
