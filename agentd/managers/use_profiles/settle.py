"""At a start of agentd: services and models brought to the profile that is selected, whoever selected it.

After a kill the selection alone tells how far a change came. What was selected while agentd did not run is put to use
now; there is no way back from that but another selection.
"""

from __future__ import annotations

from agentd.core.settings import LoadedConfig
from agentd.core.use_plan import NONE, ProfilePlan, Running, in_order
from agentd.managers.use_profiles.acts import Acts
from agentd.managers.use_profiles.apply import SELECT
from agentd.managers.use_profiles.context import UsePorts
from agentd.managers.use_profiles.noted import read_back
from agentd.types import Change


class Settler:
    """Both methods return what was done, in a clause each. Raise AgentdError."""

    def __init__(self, ports: UsePorts) -> None:
        self._ports = ports
        self._acts = Acts(ports)

    async def cut_off(self, change: Change) -> list[str]:
        """What an earlier agentd left open."""
        note = read_back(change, SELECT)
        if note is None:
            return ["nothing was touched"]
        forward = (self._config.profile or NONE) == (change.target or NONE)
        wanted = note.starts if forward else note.stops
        return await self._settled(wanted, note.brings if forward else note.served)

    async def selected(self, plan: ProfilePlan) -> list[str]:
        """What was selected meanwhile."""
        return await self._settled(plan.start, plan.switch)

    @property
    def _config(self) -> LoadedConfig:
        return self._ports.in_force()

    async def _settled(self, services: tuple[str, ...], models: tuple[str, ...]) -> list[str]:
        for slot in self._config.settings.slots:
            await self._acts.at_rest(slot)
        now = await self._ports.running(self._config)
        done = await self._models(models, now)
        return [*done, *await self._services(services, now)] or ["all is as it says"]

    async def _services(self, wanted: tuple[str, ...], now: Running) -> list[str]:
        settings, done = self._config.settings, []
        residents = set(now.residents.values())
        off = [n for n, s in settings.services.items() if not s.enabled and n in now.up and n not in residents]
        for name in in_order(settings, off)[::-1]:
            await self._acts.stop(settings.services[name], name)
            done.append(f"{name} was stopped")
        for name in in_order(settings, wanted):
            found = settings.services[name]
            if found.enabled and found.model is None and name not in now.up:
                await self._acts.start(found.unit)
                done.append(f"{name} was started")
        return done

    async def _models(self, wanted: tuple[str, ...], now: Running) -> list[str]:
        settings, done = self._config.settings, []
        for name, slot in settings.slots.items():
            resident = now.residents.get(name)
            if name in now.held or (resident is not None and settings.services[resident].enabled):
                continue
            on = [m for m in settings.models(name) if m in wanted and settings.services[m].enabled]
            model = on[0] if on else slot.default if resident is not None else ""
            if model:
                await self._acts.switch(model)
                done.append(f"{model} is resident")
            elif resident is not None:
                await self._acts.stop(settings.services[resident], resident)
                done.append(f"{resident} was unloaded")
        return done
