"""A new configuration put to use: forward, refused, undone; and cut off at every boundary, alone and with LiteLLM."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from fakes.gatewayworld import AGENTD, KEY, MAIN, SOCKET, STANDBY, FakePlan, GatewayWorld, config, ended

from agentd.core.gateway.problems import Problem
from agentd.core.gateway.tree import Place
from agentd.errors import AgentdError, ConflictError
from agentd.findings import Severity
from agentd.types import ActiveState, Change, Outcome


async def applied(world: GatewayWorld, **policy: object) -> Change:
    _, task = await world.actions.apply(world.gateway(**policy))
    return await task


def phases(change: Change) -> list[str]:
    return [phase.phase for phase in change.phases]


def at_rest(world: GatewayWorld) -> None:
    """Whatever happened: one gateway that serves by its file, the old one or the new one, and nothing left over."""
    digest = json.loads(world.files.text or "{}")["digest"]
    assert world.acceptors() == [MAIN]
    assert world.runs[MAIN][0] == digest in ("old", "new")
    assert world.units.state(STANDBY).active_state is not ActiveState.ACTIVE
    assert world.files.candidate is None
    assert [c.id for c in world.store.saved.values() if c.outcome is None] == []
    assert not world.scratch.running


# -- forward and back -------------------------------------------------------------------------------------------------


async def test_with_a_standby_somebody_accepts_at_every_moment() -> None:
    world = GatewayWorld()
    world.watching = True
    change = await applied(world)
    assert change.outcome is Outcome.DONE, change.message
    assert phases(change) == ["validate", "candidate", "check", "write", "takeover", "restart", "finish"]
    assert world.unserved == 0
    assert "new" in change.message
    assert world.files.kept[0][0].digest == "old"
    at_rest(world)


async def test_without_a_standby_a_scratch_proxy_checks_it() -> None:
    world = GatewayWorld(blue_green=False)
    change = await applied(world)
    assert (change.outcome, phases(change)) == (
        Outcome.DONE,
        ["validate", "candidate", "check", "write", "restart", "finish"],
    )
    at_rest(world)


async def test_a_litellm_without_our_runtime_is_believed() -> None:
    world = GatewayWorld(blue_green=False, controlled=False)
    assert (await applied(world, check=False)).outcome is Outcome.DONE
    assert world.runs[MAIN] == ("new", ("dolphin", "qwen"))


async def test_the_policy_may_ask_for_a_plain_restart() -> None:
    world = GatewayWorld()
    change = await applied(world, apply="restart", check=False)
    assert phases(change) == ["validate", "candidate", "write", "restart", "finish"]
    assert ("start", STANDBY) not in world.units.calls
    at_rest(world)


async def test_what_serves_already_is_left_alone() -> None:
    world = GatewayWorld(new=config("old", "qwen"))
    change = await applied(world)
    assert change.outcome is Outcome.ALREADY
    assert world.units.calls == []


async def test_a_file_that_was_written_by_hand_of_generate_is_put_to_use() -> None:
    """The file is new, the process still runs by the old one: no write, but a restart; and a way back."""
    world = GatewayWorld(new=config("new", "qwen", bad=[MAIN]))
    await world.files.write(world.new)
    change = await applied(world)
    assert change.outcome is Outcome.ROLLED_BACK, change.message
    assert json.loads(world.files.text or "")["digest"] == "old"
    at_rest(world)


PROBLEM = Problem("fallback-cycle", Severity.ERROR, Place("model-mappings.yaml", 7, 3), "a", "a loops", "break it")


async def test_refused_sources_touch_nothing() -> None:
    world = GatewayWorld()
    world.plan = FakePlan(None, world.old, (PROBLEM,))
    change = await applied(world)
    assert (change.outcome, change.exit_code) == (Outcome.REFUSED, 3)
    assert "model-mappings.yaml:7:3: a loops [fallback-cycle]" in change.message
    assert world.units.calls == []
    plan = await world.actions.plan(world.gateway())
    assert plan.refusal == change.message


async def test_an_edit_by_hand_is_not_lost_unasked() -> None:
    world = GatewayWorld()
    world.plan.edited = True
    assert (await applied(world)).outcome is Outcome.REFUSED
    _, task = await world.actions.apply(world.gateway(), force=True)
    assert (await task).outcome is Outcome.DONE


async def test_without_a_key_nothing_is_applied() -> None:
    world = GatewayWorld()
    world.files.variables.clear()
    change = await applied(world)
    assert change.outcome is Outcome.REFUSED
    assert "MASTER" in change.message
    assert KEY not in str(change)


@pytest.mark.parametrize(("blue_green", "bad"), [(True, STANDBY), (False, "scratch")])
async def test_what_litellm_does_not_start_with_is_refused(blue_green: bool, bad: str) -> None:
    world = GatewayWorld(blue_green=blue_green, new=config("new", "qwen", bad=[bad]))
    world.journal.say(STANDBY, "ERROR: fallbacks must be a list")
    change = await applied(world)
    assert (change.outcome, change.exit_code) == (Outcome.REFUSED, 3)
    assert "status 3" in change.message
    assert ("restart", MAIN) not in world.units.calls
    assert json.loads(world.files.text or "")["digest"] == "old"
    at_rest(world)


async def test_a_standby_with_other_models_is_refused() -> None:
    world = GatewayWorld()
    world.proxy.more = ("stranger",)
    change = await applied(world, start_timeout=20.0)
    assert change.outcome is Outcome.REFUSED
    assert "it lists stranger" in change.message
    world.proxy.more = ()
    at_rest(world)


@pytest.mark.parametrize("blue_green", [True, False])
async def test_a_main_that_does_not_come_up_gets_the_old_file_back(blue_green: bool) -> None:
    world = GatewayWorld(blue_green=blue_green, new=config("new", "qwen", bad=[MAIN]))
    world.watching = blue_green
    change = await applied(world)
    assert (change.outcome, change.exit_code) == (Outcome.ROLLED_BACK, 5), change.message
    assert "status 3" in change.message
    assert world.unserved == 0
    assert json.loads(world.files.text or "")["digest"] == "old"
    at_rest(world)


async def test_when_neither_comes_up_the_standby_goes_on() -> None:
    world = GatewayWorld(old=config("old", "qwen"), new=config("new", "qwen", bad=[MAIN]))
    world.files.text = config("old", "qwen", bad=[MAIN])
    change = await applied(world)
    assert (change.outcome, change.exit_code) == (Outcome.DEGRADED, 6)
    assert f"{STANDBY} serves meanwhile" in change.message
    assert world.acceptors() == [STANDBY]


async def test_the_first_configuration_of_all() -> None:
    world = GatewayWorld(old=None)
    assert (await applied(world)).outcome is Outcome.DONE
    at_rest(world)


async def test_a_first_configuration_that_does_not_come_up() -> None:
    world = GatewayWorld(old=None, new=config("new", "qwen", bad=[MAIN]))
    change = await applied(world)
    assert change.outcome is Outcome.DEGRADED
    assert "there is no earlier one" in change.message


async def test_a_file_that_cannot_be_written() -> None:
    world = GatewayWorld()
    world.files.refuse = AgentdError("file-write", "cannot write the file: the disk is full")
    change = await applied(world)
    assert change.outcome is Outcome.REFUSED
    assert "the disk is full" in change.message
    assert ("restart", MAIN) not in world.units.calls
    at_rest(world)


async def test_a_socket_that_systemd_gave_up_is_opened_again() -> None:
    world = GatewayWorld()
    world.units.change(SOCKET, active_state=ActiveState.FAILED)
    assert (await applied(world)).outcome is Outcome.DONE
    assert ("start", SOCKET) in world.units.calls
    at_rest(world)


async def test_one_at_a_time() -> None:
    world = GatewayWorld()
    change, task = await world.actions.apply(world.gateway())
    with pytest.raises(ConflictError, match=change.id):
        await world.actions.apply(world.gateway())
    with pytest.raises(ConflictError):
        await world.actions.rollback(world.gateway(), "")
    await task
    assert world.actions.running() == ""


async def test_rollback() -> None:
    world = GatewayWorld()
    await applied(world)
    _, task = await world.actions.rollback(world.gateway(), "")
    change = await task
    assert (change.kind, change.outcome) == ("gateway-rollback", Outcome.DONE)
    assert world.runs[MAIN][0] == "old"
    at_rest(world)
    with pytest.raises(AgentdError, match="no version v9"):
        await world.actions.rollback(world.gateway(), "v9")


async def test_a_restart_reads_the_environment_anew() -> None:
    world = GatewayWorld()
    world.watching = True
    _, task = await world.actions.restart(world.gateway())
    change = await task
    assert (change.kind, change.outcome) == ("gateway-restart", Outcome.DONE)
    assert ("restart", MAIN) in world.units.calls
    assert world.unserved == 0
    assert world.files.kept == []
    at_rest(world)


async def test_without_another_version_there_is_nothing_to_roll_back_to() -> None:
    world = GatewayWorld()
    with pytest.raises(AgentdError, match="no other version"):
        await world.actions.rollback(world.gateway(), "")


async def test_a_plan_says_how_it_would_be_done() -> None:
    assert (await GatewayWorld().actions.plan(GatewayWorld().gateway())).way in ("blue-green", "restart")
    world = GatewayWorld()
    plan = await world.actions.plan(world.gateway())
    assert (plan.way, plan.delta, plan.up_to_date) == ("blue-green", "-a\n+b\n", False)
    assert world.units.calls == []


# -- cut off ----------------------------------------------------------------------------------------------------------

VICTIMS: Sequence[tuple[str, ...]] = (
    (AGENTD,),
    (MAIN,),
    (STANDBY,),
    (MAIN, STANDBY),
    (MAIN, AGENTD),
    (STANDBY, AGENTD),
    (MAIN, STANDBY, AGENTD),
)


async def boundaries(blue_green: bool, new: str) -> int:
    world = GatewayWorld(blue_green=blue_green, new=new)
    await applied(world)
    return world.boundary


async def cut_at(point: int, victims: tuple[str, ...], *, blue_green: bool, new: str) -> None:
    world = GatewayWorld(blue_green=blue_green, new=new)
    world.cut(point, *(v for v in victims if blue_green or v != STANDBY))
    _, task = await world.actions.apply(world.gateway())
    change = await ended(task)
    if change is None:
        world.begin()
        await world.actions.recover(world.gateway())
    await world.until_rest()
    try:
        at_rest(world)
    except AssertionError as error:
        said = [(c.outcome, c.message) for c in world.store.saved.values()]
        raise AssertionError(f"boundary {point}, {victims} killed: {error}\n{said}\n{world.units.calls}") from None


GOOD, BAD = config("new", "dolphin", "qwen"), config("new", "dolphin", "qwen", bad=[MAIN])


@pytest.mark.parametrize("victims", VICTIMS, ids="+".join)
@pytest.mark.parametrize("new", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize("blue_green", [True, False], ids=["blue-green", "restart"])
async def test_cut_off_anywhere_it_ends_serving(blue_green: bool, new: str, victims: tuple[str, ...]) -> None:
    count = await boundaries(blue_green, new)
    assert count > 20
    for point in range(1, count + 1):
        await cut_at(point, victims, blue_green=blue_green, new=new)


async def test_a_recovery_that_is_cut_off_itself_is_done_again() -> None:
    count = await boundaries(True, GOOD)
    for point in range(1, count + 1, 3):
        for second in range(1, 8):
            world = GatewayWorld()
            world.cut(point, AGENTD, MAIN)
            _, task = await world.actions.apply(world.gateway())
            await ended(task)
            world.begin()
            world.cut(second, AGENTD)
            await world.actions.recover(world.gateway())
            await world.until_rest()
            world.begin()
            await world.actions.recover(world.gateway())
            await world.until_rest()
            at_rest(world)
