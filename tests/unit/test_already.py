"""A switch to the model that is resident: nothing to do, and no word that it serves while it does not."""

from __future__ import annotations

import dataclasses

import pytest
from fakes.rig import rig

from agentd.types import Health, Outcome, Role, ServiceStatus

DOWN = ServiceStatus("qwen", Role.MODEL, "vllm-qwen.service", Health.STARTING, "it was killed by SIGKILL")


@pytest.mark.parametrize("health", [Health.STARTING, Health.UNREADY, Health.FAILED, Health.STOPPING])
async def test_one_that_is_on_its_way_back_is_not_said_to_serve(health: Health) -> None:
    r = await rig()
    r.board.put_service(dataclasses.replace(DOWN, health=health))
    change = await r.switch("qwen")
    assert (change.outcome, change.exit_code) == (Outcome.ALREADY, 1)
    assert f"does not serve: it is {health.value}; wait for it with: agentctl wait-ready qwen" in change.message
    assert not r.world.units.calls


@pytest.mark.parametrize("health", [Health.READY, Health.DEGRADED, Health.UNKNOWN])
async def test_one_that_serves_is(health: Health) -> None:
    r = await rig()
    r.board.put_service(dataclasses.replace(DOWN, health=health))
    change = await r.switch("qwen")
    assert (change.outcome, change.exit_code, change.message) == (Outcome.ALREADY, 0, "qwen is already serving")


async def test_the_proof_of_a_switch_counts_more_than_what_is_not_seen_yet() -> None:
    r = await rig("dolphin")
    assert (await r.switch("qwen")).exit_code == 0
    r.board.put_service(DOWN)
    assert (await r.switch("qwen")).exit_code == 0
    await r.world.clock.sleep(60.0)
    assert (await r.switch("qwen")).exit_code == 1
