"""Where parts of the switch meet: a check and its cancel, a lease and its end, a look and a change, a refusal and the
budget of switches."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest
from fakes.gpus import GIB
from fakes.rig import Rig, manager_of, rig, settings, sleep_settings, sleepers

from agentd.api.problems import status_of
from agentd.core.schema import Settings
from agentd.core.switch import State
from agentd.errors import AgentdError
from agentd.managers.models.budget import learn
from agentd.managers.models.context import SwitchRun
from agentd.managers.models.fingerprint import facts_of
from agentd.managers.models.memory import remembered
from agentd.model_facts import ModelFacts
from agentd.ports import SlotRecord
from agentd.types import ActiveState, Change, Outcome
from agentd.wire import LeaseRequest, SleepCheckRequest, SwitchRequest, UnloadRequest

QWEN, DOLPHIN = "vllm-qwen.service", "vllm-dolphin.service"


def with_model(config: Settings, name: str, **fields: object) -> Settings:
    """The same with other settings of one model."""
    service = config.services[name]
    assert service.model is not None
    model = msgspec.structs.replace(service.model, **fields)
    return msgspec.structs.replace(
        config, services={**config.services, name: msgspec.structs.replace(service, model=model)}
    )


def without(config: Settings, name: str) -> Settings:
    return msgspec.structs.replace(config, services={n: s for n, s in config.services.items() if n != name})


def resident(r: Rig) -> str | None:
    slot = r.board.slot("gpu0")
    assert slot is not None
    return slot.resident


def state(r: Rig) -> str:
    slot = r.board.slot("gpu0")
    assert slot is not None
    return slot.state


# -- a sleep-check that is cut off --------------------------------------------------------------------------------


async def asleep_in_a_check(r: Rig) -> Change:
    change, _ = r.manager.sleep_check(SleepCheckRequest("qwen"))
    while not r.world.models["qwen"].sleeping:
        await r.world.clock.advance(0.01)
    return change


async def test_a_check_that_is_cancelled_does_not_go_on_checking() -> None:
    r = await sleepers()
    qwen = r.world.models["qwen"]
    change = await asleep_in_a_check(r)
    r.manager.cancel(change.id)
    await r.end(change)
    assert resident(r) == "qwen"
    assert (qwen.sleep.slept, qwen.sleep.woken) == (1, 1)
    assert r.world.units.units[QWEN].starts == 0, "it was woken, not started"


async def test_only_a_change_of_a_slot_can_be_cancelled() -> None:
    """A profile's change runs on; that it had ended would be untrue."""
    r = await rig()
    change = Change("p1", "profile", "", "production", None, 0.0, "begin")
    r.changes.note(change)
    with pytest.raises(AgentdError) as refused:
        r.manager.cancel("p1")
    assert status_of(refused.value.kind) == 409
    assert refused.value.message == "cannot cancel p1: a change of this kind (profile) cannot be cancelled"
    r.changes.note(replace(change, finished=1.0, outcome=Outcome.DONE))
    with pytest.raises(AgentdError, match=r"it has ended \(done\)"):
        r.manager.cancel("p1")


async def test_a_check_that_a_crash_cut_off_is_not_resumed_but_ended_by_a_wake() -> None:
    r = await sleepers()
    qwen = r.world.models["qwen"]
    await asleep_in_a_check(r)
    await r.manager.close()
    new = manager_of(r.world, sleep_settings())
    await new.manager.start(sleep_settings())
    await r.world.clock.advance(120.0)
    assert resident(new) == "qwen"
    assert (qwen.sleep.slept, qwen.sleep.woken) == (1, 1)
    assert r.world.units.units[QWEN].starts == 0, "it was woken, not started"
    assert not any(one.failures or one.broken for one in r.world.store.models["qwen"].sleep)


# -- what automatic switches may cost -----------------------------------------------------------------------------


async def test_a_request_that_is_refused_does_not_use_up_the_budget_of_switches() -> None:
    r = await sleepers(min_residency=0.0)
    await r.world.files.apply({"/models/dolphin": None})
    for _ in range(7):
        assert (await r.switch("dolphin", origin="gateway")).outcome is Outcome.REFUSED
    await r.world.files.apply({"/models/dolphin": "weights"})
    assert (await r.switch("dolphin", origin="gateway")).outcome is Outcome.DONE


# -- leases and unloads beside somebody else ----------------------------------------------------------------------


async def restless(r: Rig, size: int = GIB) -> asyncio.Task[None]:
    """Somebody else whose GPU memory never stands still."""
    game = r.world.kernel.spawn("game")

    async def play() -> None:
        step = 0
        while True:
            r.world.gpus.hold(game, size * (1 + step % 2))
            step += 1
            await asyncio.sleep(0.4)

    return asyncio.ensure_future(play())


@pytest.mark.parametrize("lease", [True, False])
async def test_nothing_is_to_start_so_memory_need_not_stand_still(lease: bool) -> None:
    r = await rig()
    game = await restless(r)
    ask = r.manager.lease(LeaseRequest(600.0)) if lease else r.manager.unload(UnloadRequest())
    change = await r.end(ask[0])
    game.cancel()
    assert (change.outcome, state(r)) == (Outcome.DONE, "leased" if lease else "idle")


async def leased_out(r: Rig) -> int:
    """For ten minutes, and the game that it was for takes the GPU."""
    await r.end(r.manager.lease(LeaseRequest(600.0))[0])
    game = r.world.kernel.spawn("game")
    r.world.gpus.hold(game, 20 * GIB)
    return game


async def passes(r: Rig, seconds: float) -> None:
    """As the daemon makes them: after every change, and every 15 seconds."""
    r.changes.on_end.append(lambda _change: wake.set())
    wake, until = asyncio.Event(), r.world.clock.monotonic() + seconds
    while (left := until - r.world.clock.monotonic()) > 0:
        try:
            async with asyncio.timeout(min(15.0, left)):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()
        await r.manager.ensure()


async def test_the_end_of_a_lease_that_is_refused_is_tried_again_with_a_pause_until_the_guest_has_gone() -> None:
    r = await rig()
    game = await leased_out(r)
    await r.manager.ensure()
    await passes(r, 700.0)
    assert r.kinds().count("lease.ended") == 1
    tries = [c for c in r.changes.recent(100) if c.origin == "lease-end"]
    assert 1 <= len(tries) <= 4
    assert {c.outcome for c in tries} == {Outcome.REFUSED}
    r.world.kernel.exit(game)
    await passes(r, 120.0)
    assert (resident(r), state(r)) == ("qwen", "active")


async def test_the_end_of_a_lease_leaves_a_wedged_slot_alone() -> None:
    r = await rig()
    await r.end(r.manager.lease(LeaseRequest(600.0))[0])
    r.world.models["dolphin"].never_ready = True
    r.world.units.units[DOLPHIN].behaviour.unkillable = True
    change = await r.switch("dolphin", force=True)
    assert change.outcome is Outcome.WEDGED
    await passes(r, 1000.0)
    assert r.kinds().count("lease.ended") == 0
    assert state(r) == "wedged"


async def test_a_model_whose_stop_had_to_be_forced_is_not_brought_back_into_a_lease() -> None:
    r = await rig()
    await r.end(r.manager.lease(LeaseRequest(600.0))[0])
    r.world.units.change(QWEN, active_state=ActiveState.FAILED, result="timeout")
    assert not r.manager.revive("qwen")
    assert state(r) == "leased"


async def test_a_lease_whose_model_fails_to_come_back_is_over_all_the_same() -> None:
    r = await rig()
    await r.end(r.manager.lease(LeaseRequest(600.0))[0])
    r.world.models["qwen"].die_loading = (1.0, 1, "boom")
    await r.manager.ensure()
    await passes(r, 1200.0)
    assert [c.outcome for c in r.changes.recent(100) if c.origin == "lease-end"] == [Outcome.DEGRADED]
    assert state(r) == "degraded"


def test_a_sleeper_that_is_stopped_alone_does_not_change_what_is_wanted() -> None:
    record = SlotRecord("gpu0", desired="qwen", decided=True)
    run = lone_stop(State.IDLE)
    assert remembered(record, run, settings().slots["gpu0"], None, 0.0) == record


def lone_stop(at: State) -> SwitchRun:
    change = Change("u1", "unload", "gpu0", None, None, 0.0, "idle", outcome=Outcome.DONE)
    return SwitchRun(change, at, at, only="dolphin")


# -- the configuration changes ------------------------------------------------------------------------------------


async def test_a_request_right_after_the_resident_model_was_configured_away() -> None:
    r = await rig()
    await r.manager.apply(without(settings(), "qwen"))
    plan = await r.manager.plan(SwitchRequest("dolphin"))
    assert plan.target == "dolphin"
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    assert (await r.end(change)).outcome is not None


# -- a sleeper and what is asked of the machine -------------------------------------------------------------------


async def test_main_memory_that_the_target_holds_asleep_is_not_asked_for_again() -> None:
    config = with_model(sleep_settings(), "qwen", host_memory=20 * GIB)
    r = await sleepers()
    await r.manager.apply(config)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert r.world.models["qwen"].sleeping
    r.world.kernel.available = 12 * GIB
    plan = await r.manager.plan(SwitchRequest("qwen"))
    assert "host-memory" not in [item.check for item in plan.checks if not item.ok]
    assert (await r.switch("qwen")).outcome is Outcome.DONE


# -- what is learned ----------------------------------------------------------------------------------------------


async def test_a_model_that_was_up_already_teaches_nothing_of_a_cold_start() -> None:
    r = await rig()
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    usual = r.world.store.models["dolphin"].load_seconds
    assert usual > 3.0
    assert (await r.switch("qwen")).outcome is Outcome.DONE
    await r.world.units.stop(QWEN)
    await r.world.units.start(DOLPHIN)
    await r.world.clock.advance(5.0)
    assert r.world.serving() == ["dolphin"]
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    await r.world.clock.advance(5.0)
    assert r.world.store.models["dolphin"].load_seconds == pytest.approx(usual, rel=0.05)


async def test_what_it_holds_is_learned_under_its_present_command_line() -> None:
    r = await rig()
    owner = r.manager._owners["gpu0"]
    old = ModelFacts("qwen", "another command line", vram=GIB, canary="old")
    await owner.ctx.facts.learn("qwen", old.fingerprint, vram=old.vram, canary=old.canary)
    await learn(owner.ctx, owner.ctx.models["qwen"])
    assert (await facts_of(owner.ctx, owner.ctx.models["qwen"])).vram == 14 * GIB


# -- a server that is told to stop and waits for its clients ------------------------------------------------------


@pytest.mark.parametrize("drain", [0.0, 5.0])
async def test_requests_that_are_not_waited_for_are_ended_before_the_stop(drain: float) -> None:
    r = await rig()
    qwen = r.world.models["qwen"]
    qwen.dev_mode, qwen.running = True, 2
    seen: list[int] = []
    r.world.units.on_death.append(lambda unit: seen.append(qwen.running) if unit == QWEN else None)
    assert (await r.switch("dolphin", drain=drain)).outcome is Outcome.DONE
    assert seen == [0]


async def test_a_model_whose_requests_were_ended_and_that_could_not_be_stopped_takes_requests_again() -> None:
    r = await rig()
    qwen = r.world.models["qwen"]
    qwen.dev_mode, qwen.running = True, 2
    r.world.units.refuse["stop"] = AgentdError("bus-error", "access denied")
    change = await r.switch("dolphin", drain=0.0)
    assert (change.outcome, resident(r)) == (Outcome.ROLLED_BACK, "qwen")
    assert not qwen.paused
