"""systemd's full account of units, for the units of a FakeUnits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentd.errors import AgentdError, BusError
from agentd.ports_hardening import TransientProperty

from .units import Behaviour, FakeJob, FakeUnits

UNIT_PATH = ("/home/user/.config/systemd/user", "/etc/systemd/user", "/usr/lib/systemd/user")


class FakeQuery:
    """The UnitQuery port beside `units`. `set` and `manager_properties` are what the properties say."""

    def __init__(self, units: FakeUnits) -> None:
        self.units = units
        self.manager_properties: dict[str, object] = {
            "Version": "252.39-1~deb12u2",
            "Features": "+PAM +SECCOMP -BPF_FRAMEWORK",
            "ControlGroup": "/user.slice/user-1000.slice/user@1000.service",
            "UnitPath": list(UNIT_PATH),
            "UnitsLoadStartTimestamp": 1_000_000_000_000_000,
            "UnitsLoadTimestamp": 0,
        }
        self.transient: list[tuple[str, tuple[TransientProperty, ...]]] = []
        """Every transient unit that was started, with its properties."""
        self.behaviour: dict[str, Behaviour] = {}
        """How a transient unit goes, by its name."""
        self.unknown: set[str] = set()
        """Properties that this systemd does not take."""
        self._set: dict[str, dict[str, object]] = {}

    def set(self, unit: str, **properties: object) -> None:
        self._set.setdefault(unit, {}).update(properties)

    async def properties(self, unit: str) -> Mapping[str, object]:
        state = await self.units.show(unit)
        basic: dict[str, object] = {
            "Id": unit,
            "Names": [unit],
            "LoadState": state.load_state,
            "ActiveState": state.active_state.value,
            "FragmentPath": state.fragment_path,
            "DropInPaths": list(state.dropin_paths),
            "NeedDaemonReload": state.need_daemon_reload,
        }
        if unit.endswith(".service"):
            basic |= {"MainPID": state.main_pid, "ControlGroup": state.control_group, "Result": state.result}
            basic["ExecMainStartTimestamp"] = int(state.active_since * 1e6)
        return basic | self._set.get(unit, {})

    async def manager(self) -> Mapping[str, object]:
        await self.units.list(())  # raises while the bus is away
        return dict(self.manager_properties)

    async def start_transient(self, unit: str, properties: Sequence[TransientProperty]) -> FakeJob:
        await self.units.list(())
        doing = f"cannot start the transient unit {unit}"
        if "." not in unit:
            raise AgentdError("unit-invalid", f"cannot use {unit!r} as a unit: not a full unit name")
        if unit in self.units.units:
            raise BusError("unit-exists", f"{doing}: it exists")
        refused = [name for name, _, _ in properties if name in self.unknown]
        if refused:
            raise BusError("bus-invalid", f"{doing}: cannot set property {refused[0]}, or unknown property")
        self.transient.append((unit, tuple(properties)))
        self.units.add(unit, self.behaviour.get(unit))
        return await self.units.start(unit)
