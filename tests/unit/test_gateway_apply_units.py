"""A new configuration for a gateway whose units are not as they should be."""

from __future__ import annotations

import pytest
from fakes.gatewayworld import MAIN, SOCKET, STANDBY, GatewayWorld
from fakes.units import CLD_KILLED, SIGKILL

from agentd.types import ActiveState, Change, Outcome


async def applied(world: GatewayWorld) -> Change:
    _, task = await world.actions.apply(world.gateway())
    return await task


@pytest.mark.parametrize(
    ("load", "why"),
    [("masked", "is masked"), ("not-found", "does not exist"), ("bad-setting", "could not be loaded: Exec")],
)
async def test_a_unit_that_cannot_be_started_is_told_before_anything_is_touched(load: str, why: str) -> None:
    world = GatewayWorld()
    world.units.change(MAIN, load_state=load, load_error="Exec")
    change = await applied(world)
    assert (change.outcome, change.exit_code) == (Outcome.REFUSED, 3)
    assert change.message == f"cannot use a new configuration: {MAIN} {why}"
    assert "untouched" in change.cause
    assert world.units.calls == []
    assert (world.files.text, world.files.candidate) == (world.old, None)
    assert world.acceptors() == [MAIN]


@pytest.mark.parametrize(
    ("unit", "fields", "why"),
    [
        (SOCKET, {"active_state": ActiveState.INACTIVE}, f"{SOCKET} is inactive"),
        (SOCKET, {"load_state": "not-found"}, f"{SOCKET} does not exist"),
        (STANDBY, {"load_state": "masked"}, f"{STANDBY} is masked"),
    ],
)
async def test_without_socket_or_standby_it_restarts_and_says_why(
    unit: str, fields: dict[str, object], why: str
) -> None:
    world = GatewayWorld()
    world.units.change(unit, **fields)
    change = await applied(world)
    assert change.outcome is Outcome.DONE, change.message
    assert why in change.message
    assert [why in phase.detail for phase in change.phases if phase.phase == "restart"] == [True]
    assert ("start", STANDBY) not in world.units.calls
    assert world.acceptors() == [MAIN]


async def test_who_asked_for_a_restart_is_told_of_no_lack() -> None:
    world = GatewayWorld()
    world.units.change(SOCKET, active_state=ActiveState.INACTIVE)
    _, task = await world.actions.apply(world.gateway(apply="restart"))
    assert SOCKET not in (await task).message


async def test_a_standby_that_dies_before_it_serves_costs_no_restart() -> None:
    world = GatewayWorld()
    world.store.after_save = lambda change: _killed(world) if change.phase == "takeover" else None
    change = await applied(world)
    assert change.outcome is Outcome.ROLLED_BACK, change.message
    assert world.files.text == world.old
    assert ("restart", MAIN) not in world.units.calls
    assert world.acceptors() == [MAIN]


def _killed(world: GatewayWorld) -> None:
    world.units.die(STANDBY, status=SIGKILL, code=CLD_KILLED)
