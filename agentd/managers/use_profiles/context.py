"""What a change of the profile works with, as one argument."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentd.core.settings import LoadedConfig
from agentd.core.use_plan import Running
from agentd.engine.steps import Steps
from agentd.engine.world import World
from agentd.ports import Files, UnitControl
from agentd.types import Change


@dataclass(frozen=True, slots=True)
class UsePorts:
    """Each act raises AgentdError when it fails."""

    control: UnitControl
    files: Files
    steps: Steps
    world: World
    selection: str
    """Path of the file that names the profile."""
    applied: str
    """Path of a file of the same form: the profile that services and models were last brought to."""
    load: Callable[[str], Awaitable[LoadedConfig]]
    """The configuration with this profile laid over it ("" for none). Raises ConfigError with all that is wrong, or
    AgentdError("profile-not-found")."""
    in_force: Callable[[], LoadedConfig]
    reload: Callable[[], Awaitable[object]]
    switch: Callable[[str], Awaitable[Change]]
    """Makes the model resident; the change as it ended."""
    unload: Callable[[str], Awaitable[Change]]
    """Stops the model, resident or asleep; the change as it ended. Raises AgentdError("not-resident")."""
    limits: Callable[[Sequence[str]], Awaitable[str]]
    """Brings installed drop-ins of the units to what is declared; a note for the user."""
    check_free: Callable[[str], None]
    """Raises ConflictError while a change is at work on the unit."""
    unheeded: Callable[[], Sequence[str]] = tuple
    """A sentence for each setting in force that reaches nobody."""

    async def running(self, config: LoadedConfig) -> Running:
        """What is up now, of the services of `config`. Raises AgentdError."""
        units = {name: service.unit for name, service in config.settings.services.items()}
        states = await self.control.list(list(units.values()))
        up = frozenset(n for n, unit in units.items() if unit in states and states[unit].active_state.up)
        slots = self.world.slots
        held = frozenset(slot.name for slot in slots if slot.lease_until is not None or slot.state == "wedged")
        return Running(up, {slot.name: slot.resident for slot in slots}, held)
