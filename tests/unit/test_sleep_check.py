"""sleep-check: two rounds, measured and compared, as a change of the slot; thrash protection beside it."""

from __future__ import annotations

import json

import pytest
from fakes.gpus import GIB
from fakes.rig import Rig, manager_of, sleep_settings, sleepers

from agentd.errors import AgentdError, ConflictError
from agentd.gateway_runtime.asking import judge
from agentd.model_facts import SleepFacts
from agentd.types import Change, Health, Outcome, Role, ServiceStatus
from agentd.wire import SleepCheckRequest, SwitchRequest


async def check(r: Rig, model: str = "qwen", **options: int) -> Change:
    change, _ = r.manager.sleep_check(SleepCheckRequest(model, **options))  # type: ignore[arg-type]
    return await r.end(change)


def learned(r: Rig, level: int = 1) -> SleepFacts:
    return r.world.store.models["qwen"].level(level)


def resident(r: Rig) -> str | None:
    slot = r.board.slot("gpu0")
    assert slot is not None
    assert slot.sleeping == ()
    return slot.resident


@pytest.mark.parametrize("level", [1, 2])
async def test_two_rounds_are_measured_and_the_model_serves_on(level: int) -> None:
    r = await sleepers()
    qwen = r.world.models["qwen"]
    change = await check(r, level=level)
    assert change.outcome is Outcome.DONE, change
    assert change.message.startswith(f"sleep level {level} of qwen: works: 0.")
    assert (qwen.sleep.slept, qwen.sleep.woken) == (2, 2)
    facts = learned(r, level)
    assert facts.checked > 0
    assert (facts.freed, facts.residual) == (13 * GIB, GIB)
    assert facts.host_bytes == (8 * GIB if level == 1 else 0)
    assert resident(r) == "qwen"
    assert not qwen.paused
    assert ("start", "vllm-qwen.service") not in r.world.units.calls


async def test_a_model_that_loses_its_mind_is_found_out_and_started_anew() -> None:
    r = await sleepers()
    r.world.models["qwen"].sleep.fault = "garbage"
    change = await check(r)
    assert change.outcome is Outcome.DONE
    assert "broken: qwen says something else" in change.message
    assert learned(r).broken
    assert resident(r) == "qwen"
    assert ("start", "vllm-qwen.service") in r.world.units.calls
    r.world.models["qwen"].sleep.fault = ""
    assert "broken" not in (await check(r)).message, "what was repaired is used again"
    assert learned(r).broken == ""
    assert learned(r).failures == 0


@pytest.mark.parametrize("fault", ["keeps-memory", "sleep-500", "lies", "wake-500"])
async def test_whatever_fails_the_model_comes_back(fault: str) -> None:
    r = await sleepers()
    r.world.models["qwen"].sleep.fault = fault
    change = await check(r)
    assert change.outcome is Outcome.DONE
    assert "broken" in change.message
    assert resident(r) == "qwen"
    assert r.world.serving() == ["qwen"]


async def test_a_model_that_cannot_sleep_is_not_touched() -> None:
    r = await sleepers()
    r.world.models["qwen"].dev_mode = False
    calls = len(r.world.units.calls)
    change = await check(r)
    assert change.outcome is Outcome.REFUSED
    assert "no sleep endpoints" in change.message
    assert r.world.units.calls[calls:] == []


async def test_the_slot_is_busy_meanwhile_and_only_the_resident_model_can_be_checked() -> None:
    r = await sleepers()
    with pytest.raises(AgentdError, match="dolphin is not resident"):
        r.manager.sleep_check(SleepCheckRequest("dolphin"))
    with pytest.raises(AgentdError, match="no sleep level 3"):
        r.manager.sleep_check(SleepCheckRequest("qwen", 3))
    change, _ = r.manager.sleep_check(SleepCheckRequest("qwen"))
    with pytest.raises(ConflictError):
        r.manager.switch(SwitchRequest("dolphin"))
    await r.end(change)


async def test_a_check_that_is_cancelled_ends_with_the_model_serving() -> None:
    r = await sleepers()
    change, _ = r.manager.sleep_check(SleepCheckRequest("qwen"))
    await r.world.clock.advance(0.3)
    r.manager.cancel(change.id)
    await r.end(change)
    assert resident(r) == "qwen"
    assert r.world.serving() == ["qwen"]
    assert not r.world.models["qwen"].sleeping


@pytest.mark.parametrize("seconds", [0.01, 0.2, 0.42, 0.5, 0.62, 0.7, 0.9, 1.1, 1.3, 1.5])
async def test_after_a_crash_in_a_check_the_model_serves(seconds: float) -> None:
    r = await sleepers()
    r.manager.sleep_check(SleepCheckRequest("qwen"))
    await r.world.clock.advance(seconds)
    await r.manager.close()
    new = manager_of(r.world, sleep_settings())
    await new.manager.start(sleep_settings())
    await r.world.clock.advance(120.0)
    await new.manager.ensure()
    assert resident(new) == "qwen"
    assert not r.world.models["qwen"].sleeping
    assert not r.world.models["qwen"].paused
    assert not await r.world.store.open_changes()


# -- thrashing ------------------------------------------------------------------------------------------------


async def by_gateway(r: Rig, target: str) -> Change:
    return await r.switch(target, origin="gateway")


async def test_a_request_does_not_take_a_model_away_that_has_only_just_come() -> None:
    r = await sleepers()
    await r.world.clock.advance(61.0)
    assert (await by_gateway(r, "dolphin")).outcome is Outcome.DONE
    with pytest.raises(AgentdError, match=r"dolphin has slot gpu0 for \d+ s more") as refused:
        await by_gateway(r, "qwen")
    assert refused.value.kind == "switch-suppressed"
    assert r.counters.snapshot()["agentd_switch_suppressed", ("min-residency",)] == 1
    assert (await r.switch("qwen")).outcome is Outcome.DONE, "a person is never refused by this"


async def test_requests_switch_no_more_than_six_times_in_ten_minutes() -> None:
    r = await sleepers(min_residency=0.0)
    for target in ("dolphin", "qwen") * 3:
        assert (await by_gateway(r, target)).outcome is Outcome.DONE
    with pytest.raises(AgentdError, match="6 times within 10 min"):
        await by_gateway(r, "dolphin")
    assert r.counters.snapshot()["agentd_switch_suppressed", ("budget",)] == 1
    await r.world.clock.advance(600.0)
    assert (await by_gateway(r, "dolphin")).outcome is Outcome.DONE


async def test_a_request_for_a_model_that_cools_down_is_answered_at_once_and_leaves_nothing_behind() -> None:
    r = await sleepers(min_residency=0.0)
    r.world.models["dolphin"].canary = 500
    await r.switch("dolphin")
    before = len(r.changes.recent(50))
    for _ in range(10):
        with pytest.raises(AgentdError, match="dolphin failed before and is cooling down for 30s more") as refused:
            await by_gateway(r, "dolphin")
    assert refused.value.kind == "switch-refused"
    assert not judge(409, json.dumps({"kind": refused.value.kind, "detail": "as above"}).encode()).busy
    assert len(r.changes.recent(50)) == before
    assert r.counters.snapshot()["agentd_switch_suppressed", ("refused",)] == 10


async def test_what_is_resident_already_or_on_its_way_costs_nothing() -> None:
    r = await sleepers()
    assert (await by_gateway(r, "qwen")).outcome is Outcome.ALREADY
    await r.world.clock.advance(61.0)
    change, _ = r.manager.switch(SwitchRequest("dolphin", origin="gateway"))
    assert r.manager.switch(SwitchRequest("dolphin", origin="gateway")) == (change, True)
    await r.end(change)


def test_the_gateway_asks_again_later_when_it_is_put_off() -> None:
    body = json.dumps({"kind": "switch-suppressed", "detail": "qwen has slot gpu0 for 50 s more"}).encode()
    assert judge(409, body).busy
    assert not judge(409, body.replace(b"switch-suppressed", b"wedged")).busy


def test_health_has_a_word_for_it() -> None:
    assert ServiceStatus("qwen", Role.MODEL, "vllm-qwen.service", Health.ASLEEP).health.value == "asleep"
