"""systemd asked by a short-lived program without an event loop, through pystemd. Never imported by the daemon:
pystemd holds the interpreter while it waits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from agentd.errors import AgentdError, BusError
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
        raise _down(scope, error) from error
    return {asked: _state(asked, row) for asked, row in zip(units, rows, strict=True)}


def _state(name: str, row: Sequence[bytes]) -> UnitState:
    return UnitState(
        name=name,
        description=row[1].decode(errors="replace"),
        load_state=row[2].decode(),
        active_state=ActiveState.parse(row[3].decode()),
        sub_state=row[4].decode(),
    )


def environment_files(scope: Scope, unit: str) -> tuple[str, ...]:
    """Paths of the unit's EnvironmentFile=, expanded; () for a unit that is not there. Raises BusError("bus-down")."""
    from pystemd.dbuslib import DBus
    from pystemd.systemd1 import Unit

    try:
        with DBus(user_mode=scope is Scope.USER) as bus:
            files = Unit(unit.encode(), bus=bus, _autoload=True).Service.EnvironmentFiles
    except Exception as error:  # As above.
        raise _down(scope, error) from error
    return tuple(path.decode(errors="surrogateescape") for path, _ in files)


def job(scope: Scope, unit: str, verb: str, *, timeout: float) -> None:
    """Start, stop or restart a unit ("start", "stop", "restart"), and wait for the end of that.

    Raises AgentdError("unit-failed" | "timeout"), BusError("bus-down").
    """
    active = _done(scope, unit, verb, timeout)
    if active is None:
        raise AgentdError("timeout", f"cannot {verb} {unit}: systemd was not done after {timeout:g} s")
    if active.up is (verb == "stop"):
        hint = f"see: journalctl {'--user ' if scope is Scope.USER else ''}-u {unit}"
        raise AgentdError("unit-failed", f"cannot {verb} {unit}: it is {active}", hint=hint)


def _done(scope: Scope, unit: str, verb: str, timeout: float) -> ActiveState | None:
    """How the unit is once the job has ended; None when that took too long."""
    from pystemd.dbuslib import DBus
    from pystemd.systemd1 import Manager, Unit

    deadline = time.monotonic() + timeout
    try:
        with DBus(user_mode=scope is Scope.USER) as bus:
            getattr(Manager(bus=bus, _autoload=True).Manager, f"{verb.capitalize()}Unit")(unit.encode(), b"replace")
            state = Unit(unit.encode(), bus=bus, _autoload=True).Unit
            while state.Job[0]:
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.1)
            return ActiveState.parse(state.ActiveState.decode())
    except Exception as error:  # As above.
        raise BusError("bus-down", f"cannot {verb} {unit} ({scope} scope): {error}") from error


def _down(scope: Scope, error: Exception) -> BusError:
    return BusError("bus-down", f"cannot ask systemd ({scope} scope): {error}")
