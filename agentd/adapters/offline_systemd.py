"""systemd asked by a short-lived program without an event loop, through pystemd. Never imported by the daemon:
pystemd holds the interpreter while it waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentd.errors import BusError
from agentd.types import ActiveState, Scope, UnitState


def unit_states(scope: Scope, units: Sequence[str]) -> Mapping[str, UnitState]:
    """Brief states (load, active, sub) in one call. Raises BusError("bus-down")."""
    from pystemd.dbuslib import DBus
    from pystemd.systemd1 import Manager

    try:
        with DBus(user_mode=scope is Scope.USER) as bus:
            manager = Manager(bus=bus, _autoload=True).Manager
            rows = manager.ListUnitsByNames([unit.encode() for unit in units])
    except Exception as error:  # pystemd raises its own types as well as OSError, by the kind of failure.
        raise BusError("bus-down", f"cannot ask systemd ({scope} scope): {error}") from error
    return {asked: _state(asked, row) for asked, row in zip(units, rows, strict=True)}


def _state(name: str, row: Sequence[bytes]) -> UnitState:
    return UnitState(
        name=name,
        description=row[1].decode(errors="replace"),
        load_state=row[2].decode(),
        active_state=ActiveState.parse(row[3].decode()),
        sub_state=row[4].decode(),
    )
