"""The seams of the switch that open when something is slow: a look that a change overtakes, a way back that takes two
tries, servers that hang, a slot that is configured away under a change."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest
from fakes.gpus import GIB
from fakes.prober import Reply, Request
from fakes.rig import Rig, manager_of, rig, settings, sleep_settings, sleepers
from fakes.world import FakeModel
from unit.test_start_retry import GATE, failing
from unit.test_switch_seams import DOLPHIN, QWEN, resident, state, with_model, without

from agentd.core.schema import Settings
from agentd.core.switch import State
from agentd.gpu import GpuProcess, GpuSnapshot
from agentd.managers.models.context import SwitchRun
from agentd.managers.models.orphans import end_orphans
from agentd.types import ActiveState, Change, Outcome
from agentd.wire import LeaseRequest, SwitchRequest


def slow_once(model: FakeModel, path: str, seconds: float, *, at: int = 1) -> None:
    """The answer to the request for this path that comes as number `at` is late."""
    seen = 0

    def reply(request: Request) -> Reply:
        nonlocal seen
        seen += request.path == path
        return seconds if request.path == path and seen == at else model.reply(request)

    model.world.prober.serve(model.url, reply)


# -- a look that a change overtakes -------------------------------------------------------------------------------


async def test_a_look_that_began_before_a_switch_says_nothing_after_it() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    await r.switch("qwen")
    assert r.world.models["dolphin"].sleeping
    slow_once(r.world.models["dolphin"], "/is_sleeping", 0.99)
    r.world.models["dolphin"].sleep.wake_seconds = r.world.models["qwen"].sleep.seconds = 0.01
    look = asyncio.ensure_future(r.manager.ensure())
    await r.world.clock.settle()
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert not look.done()
    calls = len(r.world.units.calls)
    await look
    assert "slot.two-models" not in r.kinds()
    assert ("stop", QWEN) not in r.world.units.calls[calls:]
    assert r.world.models["qwen"].sleeping


async def test_a_model_that_a_switch_wakes_is_not_held_by_a_look_that_found_it_asleep() -> None:
    r = await sleepers()
    dolphin = r.world.models["dolphin"]
    await r.switch("dolphin")
    await r.switch("qwen")
    await r.manager._owners["gpu0"].ctx.sleepers.forget("dolphin")
    dolphin.sleep.wake_seconds = r.world.models["qwen"].sleep.seconds = 0.01
    slow_once(dolphin, "/metrics", 1.9, at=2)
    look = asyncio.ensure_future(r.manager.ensure())
    await r.world.clock.advance(0.05)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert not look.done()
    await look
    assert not dolphin.paused
    assert (await r.switch("dolphin")).outcome is Outcome.ALREADY
    assert "model.asleep" not in r.kinds()


async def test_a_model_that_died_while_a_switch_was_asked_for_does_not_leave_an_active_slot_without_one() -> None:
    r = await rig()
    await r.world.files.apply({"/models/dolphin": None})
    r.world.units.die(QWEN)
    look = asyncio.ensure_future(r.manager.ensure())
    while resident(r) == "qwen" and not look.done():
        await asyncio.sleep(0)
        if r.manager._owners["gpu0"].resident is None:
            break
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    assert (await r.end(change)).outcome is Outcome.REFUSED
    await look
    await r.manager.ensure()
    assert (resident(r), state(r)) == (None, "degraded")


@pytest.mark.parametrize(
    ("first", "then"),
    [(without(sleep_settings(), "qwen"), sleep_settings()), (sleep_settings(), without(sleep_settings(), "dolphin"))],
)
async def test_a_look_that_a_new_configuration_overtakes_says_nothing(first: Settings, then: Settings) -> None:
    r = await sleepers()
    await r.switch("dolphin")
    await r.switch("qwen")
    slow_once(r.world.models["dolphin"], "/is_sleeping", 0.9)
    await r.manager.apply(first)
    look = asyncio.ensure_future(r.manager.ensure())
    await r.world.clock.settle()
    await r.manager.apply(then)
    await look
    await r.manager.ensure()
    assert resident(r) == "qwen"


# -- the way back -------------------------------------------------------------------------------------------------


async def test_the_way_back_has_time_for_two_tries() -> None:
    config = with_model(settings(), "qwen", ready_timeout=600.0)
    r = await rig()
    await r.manager.apply(config)
    qwen = r.world.models["qwen"]
    qwen.load = 420.0
    failing(qwen, GATE, after=400.0)
    r.world.models["dolphin"].die_loading = (1.0, 1, "boom")
    change = await r.switch("dolphin")
    assert (change.outcome, resident(r)) == (Outcome.ROLLED_BACK, "qwen")
    assert r.world.serving() == ["qwen"]


async def test_the_way_back_ends_when_the_model_does_not_answer_in_its_own_time() -> None:
    r = await rig()
    r.world.models["qwen"].never_ready = True
    r.world.models["dolphin"].die_loading = (1.0, 1, "boom")
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DEGRADED
    assert "qwen does not come back: vllm-qwen.service did not answer within 20 s" in change.message
    assert change.phases[-1].seconds == pytest.approx(20.0, abs=2.0)


async def cut_off_in_release(switch: str) -> Rig:
    """agentd was killed in RELEASE, and the previous model hangs ever since."""
    r = await sleepers(resident=None)
    config = sleep_settings(switch=switch)
    r.world.serve_at_once("qwen")
    r.world.models["qwen"].silent = True
    change = Change("s1", "switch", "gpu0", "dolphin", "qwen", r.world.clock.time(), "release")
    await r.world.store.save_change(change)
    new = manager_of(r.world, config)
    r.world.units.on_start.append(lambda *_: setattr(r.world.models["qwen"], "silent", False))
    await new.manager.start(config)
    return new


async def test_a_model_that_was_caught_on_its_way_to_sleep_is_started_anew() -> None:
    r = await cut_off_in_release("sleep1")
    await r.world.clock.advance(300.0)
    assert (resident(r), state(r)) == ("qwen", "active")
    assert r.world.units.units[QWEN].starts == 1


async def test_a_start_that_systemd_has_begun_again_by_the_time_we_ask_is_explained_and_tried_once_more() -> None:
    r = await rig()
    how = r.world.units.units[DOLPHIN].behaviour
    how.restart, how.restart_seconds, how.ignore_sigterm = True, 0.0, True
    failing(r.world.models["dolphin"], GATE)
    r.world.models["dolphin"].load = 10.0
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert r.counters.snapshot()["agentd_start_retry", ("dolphin", "startup-gate")] == 1
    tried = next(p for p in change.phases if p.result == "retry")
    assert tried.seconds is not None
    assert tried.seconds < 15.0
    assert "not enough free GPU memory" in tried.detail
    assert "(systemd has started it again)" in tried.detail


# -- orphans, rooms, deadlines ------------------------------------------------------------------------------------


async def test_an_orphan_on_two_gpus_is_killed_and_counted_once() -> None:
    r = await rig()
    ctx = r.manager._owners["gpu0"].ctx
    ctx = dataclasses.replace(ctx, slot=msgspec.structs.replace(ctx.slot, gpus=(0, 1)))
    child = r.world.units.units[QWEN].pids[-1]
    r.world.units.die(QWEN, orphan=True)
    await r.world.clock.advance(1.0)
    r.world.kernel.immune = lambda _unit: True
    both = GpuSnapshot("nvml", processes=(GpuProcess(child, 0, GIB), GpuProcess(child, 1, GIB)))
    change = Change("s1", "switch", "gpu0", "dolphin", None, 0.0, "wait-vram")
    run = SwitchRun(change, before=State.IDLE, state=State.WAIT_VRAM, target=ctx.models["dolphin"])
    assert await end_orphans(ctx, run, both) == 1
    assert r.counters.snapshot()["agentd_orphan_killed", (QWEN,)] == 1
    assert r.kinds().count("orphan.killed") == 1


async def test_a_sleep_that_leaves_too_little_room_is_counted_as_one_that_ended_in_a_stop() -> None:
    r = await sleepers()
    r.world.models["qwen"].sleep.residual = 2 * GIB
    r.world.models["dolphin"].vram = 22 * GIB
    config = with_model(sleep_settings(), "dolphin", vram=int(22.5 * GIB))
    await r.manager.apply(config)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert "would be missing" in change.phases[2].detail
    assert r.counters.snapshot()["agentd_sleep_fallback", ("qwen", "no-room")] == 1
    assert "sleep.fallback" in r.kinds()
    assert r.world.store.models["qwen"].level(1).failures == 0, "the sleep itself went well"


# -- a slot that is configured away -------------------------------------------------------------------------------


async def parked_under_a_change() -> tuple[Rig, Change]:
    config = settings()
    ollama = config.services["ollama"]
    ollama = msgspec.structs.replace(ollama, runtime=msgspec.structs.replace(ollama.runtime, policy="stop_unit"))
    config = msgspec.structs.replace(config, services={**config.services, "ollama": ollama})
    r = await rig()
    r.world.add_ollama()
    await r.manager.apply(config)
    r.world.models["dolphin"].load = 10.0
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(5.0)
    assert r.world.units.state("ollama.service").active_state is ActiveState.INACTIVE
    kept = {"ollama": ollama}
    await r.manager.apply(msgspec.structs.replace(config, slots={}, services=kept))
    return r, change


async def test_a_change_whose_slot_is_configured_away_ends() -> None:
    r, change = await parked_under_a_change()
    async with asyncio.timeout(60.0):
        ended = await r.end(change)
    assert ended.outcome is Outcome.CANCELLED
    assert "not in the configuration any more" in ended.message
    assert not await r.world.store.open_changes()


async def test_a_runtime_that_such_a_change_had_stopped_runs_again() -> None:
    r, _ = await parked_under_a_change()
    await r.world.clock.advance(5.0)
    await r.manager.ensure()
    await r.world.clock.advance(5.0)
    assert r.world.units.state("ollama.service").active_state is ActiveState.ACTIVE


async def test_a_change_that_was_cut_off_in_a_slot_that_is_gone_is_ended_once() -> None:
    r = await rig()
    await r.world.store.save_change(Change("s9", "switch", "away", "dolphin", None, 0.0, "start"))
    await manager_of(r.world, settings()).manager.start(settings())
    assert not await r.world.store.open_changes()


# -- the dry run --------------------------------------------------------------------------------------------------


async def test_a_dry_run_says_that_the_slot_is_leased_or_wedged() -> None:
    r = await rig()
    await r.end(r.manager.lease(LeaseRequest(600.0))[0])
    plan = await r.manager.plan(SwitchRequest("dolphin"))
    assert not plan.ok
    assert [item.detail for item in plan.checks if not item.ok] == [
        "slot gpu0 is leased for 10min more; end it with: agentctl lease end"
    ]
    assert (await r.manager.plan(SwitchRequest("dolphin", force=True))).ok
    owner = r.manager._owners["gpu0"]
    owner.state, owner.cause = State.WEDGED, "stuck"
    plan = await r.manager.plan(SwitchRequest("dolphin"))
    assert [item.detail for item in plan.checks if not item.ok] == ["slot gpu0 is wedged: stuck"]
