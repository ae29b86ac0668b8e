"""A switch that puts the model to sleep and wakes it, in virtual time; failures end in a stop or a cold start."""

from __future__ import annotations

import msgspec
import pytest
from fakes.gpus import GIB
from fakes.rig import Rig, sleep_settings, sleepers

from agentd.errors import AgentdError
from agentd.types import ActiveState, Outcome
from agentd.wire import LeaseRequest, SwitchRequest, UnloadRequest


async def there_and_back(r: Rig) -> None:
    """qwen has slept and serves again, dolphin sleeps: both have learned what a good answer is."""
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert (await r.switch("qwen")).outcome is Outcome.DONE


def states(r: Rig) -> dict[str, str]:
    found = {}
    for name, model in r.world.models.items():
        up = r.world.units.state(model.unit).active_state.up
        found[name] = ("asleep" if model.sleeping else "awake") if up else "down"
    return found


def sleeping(r: Rig) -> tuple[str, ...]:
    return r.board.slot("gpu0").sleeping  # type: ignore[union-attr]


def starts(r: Rig, name: str) -> int:
    return r.world.units.calls.count(("start", f"vllm-{name}.service"))


async def test_the_previous_model_sleeps_and_the_next_switch_wakes_it() -> None:
    r = await sleepers()
    first = await r.switch("dolphin")
    assert (first.outcome, first.way) == (Outcome.DONE, "cold")
    assert states(r) == {"qwen": "asleep", "dolphin": "awake"}
    assert sleeping(r) == ("qwen",)
    assert r.world.store.slots["gpu0"].asleep == {"qwen": 1}
    assert r.world.models["qwen"].paused
    second = await r.switch("qwen")
    assert (second.outcome, second.way) == (Outcome.DONE, "wake"), second
    assert states(r) == {"qwen": "awake", "dolphin": "asleep"}
    assert starts(r, "qwen") == 0
    assert not r.world.models["qwen"].paused
    details = {p.phase: p.detail for p in second.phases}
    assert details["start"].startswith("qwen woken from level 1 in 0.")
    assert details["release"].startswith("dolphin sleeps at level 1 after 0.")
    assert details["wait-ready"] == "it has answered when it was woken"
    assert second.finished is not None
    assert second.finished - second.created < 4.0


async def test_what_a_sleep_and_a_wake_take_is_learned() -> None:
    r = await sleepers()
    await there_and_back(r)
    facts = r.world.store.models["qwen"].level(1)
    assert facts.sleep_seconds == pytest.approx(0.4, abs=0.1)
    assert facts.wake_seconds == pytest.approx(0.2, abs=0.1)
    assert facts.freed == 13 * GIB
    assert facts.residual == GIB
    assert facts.host_bytes == 8 * GIB
    assert r.counters.snapshot()["agentd_model_wake", ("qwen", "1", "done")] == 1


async def test_a_model_that_says_something_else_after_its_wake_is_started_anew_and_sleeps_no_more() -> None:
    r = await sleepers()
    await there_and_back(r)
    r.world.models["dolphin"].sleep.fault = "garbage"
    change = await r.switch("dolphin")
    assert (change.outcome, change.way) == (Outcome.DONE, "cold")
    assert starts(r, "dolphin") == 2
    assert "says something else" in r.world.store.models["dolphin"].level(1).broken
    assert r.counters.snapshot()["agentd_sleep_fallback", ("dolphin", "garbage")] == 1
    await r.switch("qwen")
    assert states(r) == {"qwen": "awake", "dolphin": "down"}


@pytest.mark.parametrize("fault", ["keeps-memory", "half", "sleep-500", "sleep-hangs", "lies"])
async def test_a_sleep_that_does_not_free_the_gpu_ends_in_a_stop(fault: str) -> None:
    r = await sleepers()
    r.world.models["qwen"].sleep.fault = fault
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert states(r) == {"qwen": "down", "dolphin": "awake"}
    assert sleeping(r) == ()
    release = next(p for p in change.phases if p.phase == "release")
    assert "not put to sleep" in release.detail
    assert r.world.store.models["qwen"].level(1).failures == 1
    assert "sleep.fallback" in r.kinds()


@pytest.mark.parametrize("fault", ["wake-500", "wake-hangs", "awake-not"])
async def test_a_wake_that_fails_ends_in_a_cold_start_within_the_change(fault: str) -> None:
    r = await sleepers()
    await r.switch("dolphin")
    r.world.models["qwen"].sleep.fault = fault
    change = await r.switch("qwen")
    assert (change.outcome, change.way) == (Outcome.DONE, "cold"), change
    assert states(r) == {"qwen": "awake", "dolphin": "asleep"}
    assert "started anew" in next(p for p in change.phases if p.phase == "start").detail
    assert r.world.store.models["qwen"].level(1).failures == 1


async def test_a_wake_that_runs_out_of_memory_is_not_left_half_mapped() -> None:
    """Somebody takes what had been measured as free; the sleeper ends, and the one before gets the GPU back."""
    r = await sleepers(vram_timeout=5.0)
    await r.switch("dolphin")
    qwen = r.world.models["qwen"]
    qwen.sleep.wake_seconds = 1.0
    change, _ = r.manager.switch(SwitchRequest("qwen"))
    async for step in r.changes.follow(change.id):
        if step.phase == "start":
            break
    await r.world.clock.advance(0.5)
    r.world.gpus.hold(r.world.kernel.spawn("game"), int(9.5 * GIB))
    ended = await r.end(change)
    assert ended.outcome is Outcome.ROLLED_BACK, ended
    assert "game" in ended.cause
    assert states(r) == {"qwen": "down", "dolphin": "awake"}
    assert r.counters.snapshot()["agentd_sleep_fallback", ("qwen", "error")] == 1
    assert starts(r, "dolphin") == 1


async def test_a_sleeper_that_keeps_its_pinned_memory_may_sleep_again() -> None:
    r = await sleepers()
    r.world.kernel.available = 40 * GIB
    await there_and_back(r)
    r.world.kernel.available = 10 * GIB
    await r.switch("dolphin")
    assert states(r)["qwen"] == "asleep"


async def test_a_dry_run_says_what_becomes_of_the_model_that_serves() -> None:
    r = await sleepers()
    items = {i.check: i for i in (await r.manager.plan(SwitchRequest("dolphin"))).checks}
    assert (items["release"].ok, items["release"].detail) == (True, "qwen would sleep at level 1")
    r.world.models["qwen"].version = "0.14.1"
    items = {i.check: i for i in (await r.manager.plan(SwitchRequest("dolphin"))).checks}
    assert items["release"].detail.startswith("qwen would be stopped: vLLM 0.14.1")
    assert items["release"].ok


async def test_a_model_that_never_says_the_same_twice_is_not_held_to_it() -> None:
    r = await sleepers()
    r.world.models["dolphin"].texts = ["one", "two", "three"]
    await there_and_back(r)
    assert r.world.store.models["dolphin"].canary == ""
    change = await r.switch("dolphin")
    assert (change.outcome, change.way) == (Outcome.DONE, "wake")


async def test_without_a_gpu_to_measure_an_explicit_level_is_believed_and_auto_is_not() -> None:
    for switch, expected in (("sleep1", "asleep"), ("auto", "down")):
        r = await sleepers(switch=switch)
        r.world.gpus.present = False
        await r.switch("dolphin")
        assert states(r)["qwen"] == expected


async def test_where_memory_is_not_to_be_looked_at_no_figure_of_it_decides() -> None:
    """Though NVML works: what qwen held before its sleep is no lack of room."""
    r = await sleepers(vram_probe="none")
    for target in ("dolphin", "qwen", "dolphin"):
        await r.switch(target)
    assert states(r) == {"qwen": "asleep", "dolphin": "awake"}
    assert "sleep.fallback" not in r.kinds()


async def test_sleepers_beside_the_target_are_not_stopped_for_room_that_nobody_measures() -> None:
    r = await sleepers("qwen", "dolphin", "falcon", vram_probe="none", max_sleepers=2)
    for target in ("dolphin", "falcon"):
        await r.switch(target)
    assert states(r) == {"qwen": "asleep", "dolphin": "asleep", "falcon": "awake"}


async def test_a_model_does_not_sleep_where_the_target_is_to_listen() -> None:
    r = await sleepers()
    config = sleep_settings()
    shared = dict(config.services)
    shared["dolphin"] = msgspec.structs.replace(shared["dolphin"], url=shared["qwen"].url)
    await r.manager.apply(msgspec.structs.replace(config, services=shared))
    plan = await r.manager.plan(SwitchRequest("dolphin", dry_run=True))
    told = next(item.detail for item in plan.checks if item.check == "release")
    assert told == "qwen would be stopped: qwen asleep would go on listening where dolphin is to"


async def test_a_sleeper_that_listens_where_the_target_is_to_is_stopped() -> None:
    names = ("qwen", "dolphin", "falcon")
    r = await sleepers(*names, max_sleepers=2)
    await r.switch("dolphin")
    config = sleep_settings(*names, max_sleepers=2)
    shared = dict(config.services)
    shared["falcon"] = msgspec.structs.replace(shared["falcon"], url=shared["qwen"].url)
    await r.manager.apply(msgspec.structs.replace(config, services=shared))
    change = await r.switch("falcon")
    release = next(p.detail for p in change.phases if p.phase == "release")
    assert release.startswith("sleeper vllm-qwen.service is stopped; dolphin sleeps"), change


async def test_where_the_driver_gives_no_figures_for_processes_the_gpus_own_count() -> None:
    r = await sleepers()
    r.world.gpus.silent = True
    await r.switch("dolphin")
    assert states(r)["qwen"] == "asleep"
    facts = r.world.store.models["qwen"].level(1)
    assert facts.freed == 13 * GIB


async def test_requests_in_work_are_never_slept_upon() -> None:
    r = await sleepers()
    qwen = r.world.models["qwen"]
    qwen.running = 3
    change = await r.switch("dolphin", drain=1.0)
    assert change.outcome is Outcome.DONE
    assert not qwen.sleep.dead
    assert states(r) == {"qwen": "asleep", "dolphin": "awake"}


async def test_without_the_main_memory_for_it_the_model_is_stopped() -> None:
    r = await sleepers()
    r.world.kernel.available = 16 * GIB
    change = await r.switch("dolphin")
    assert states(r)["qwen"] == "down"
    assert "main memory: qwen asleep needs 18.4G" in next(p for p in change.phases if p.phase == "release").detail
    assert r.world.models["qwen"].sleep.slept == 0


async def test_a_quarantined_vllm_is_stopped() -> None:
    r = await sleepers()
    r.world.models["qwen"].version = "0.15.1"
    change = await r.switch("dolphin")
    assert states(r)["qwen"] == "down"
    assert "vllm#32714" in next(p for p in change.phases if p.phase == "release").detail


async def test_an_unload_stops_sleepers_too() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    change, _ = r.manager.unload(UnloadRequest())
    assert (await r.end(change)).outcome is Outcome.DONE
    assert states(r) == {"qwen": "down", "dolphin": "down"}
    assert sleeping(r) == ()


async def test_a_lease_gets_the_whole_gpu() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    change, _ = r.manager.lease(LeaseRequest(100.0))
    assert (await r.end(change)).outcome is Outcome.DONE
    assert states(r) == {"qwen": "down", "dolphin": "down"}


async def test_one_sleeper_alone_can_be_stopped() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    change = await r.end(r.manager.stop("qwen"))
    assert (change.outcome, change.message) == (Outcome.DONE, "sleeper qwen is stopped")
    assert states(r) == {"qwen": "down", "dolphin": "awake"}
    slot = r.board.slot("gpu0")
    assert slot is not None
    assert (slot.state, slot.resident, slot.sleeping) == ("active", "dolphin", ())


async def test_the_longest_asleep_makes_way_for_the_next_sleeper() -> None:
    r = await sleepers("qwen", "dolphin", "phi")
    await r.switch("dolphin")
    await r.switch("phi")
    assert states(r) == {"qwen": "down", "dolphin": "asleep", "phi": "awake"}
    await r.switch("dolphin")
    assert states(r) == {"qwen": "down", "dolphin": "awake", "phi": "asleep"}


async def test_a_target_that_fails_gives_the_gpu_back_to_the_sleeper() -> None:
    r = await sleepers()
    r.world.models["dolphin"].never_ready = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert states(r) == {"qwen": "awake", "dolphin": "down"}
    assert starts(r, "qwen") == 0
    assert not r.world.models["qwen"].paused
    assert "woken from level 1" in next(p for p in change.phases if p.phase == "rollback").detail


async def test_a_sleeper_that_died_is_forgotten_and_started_when_it_is_wanted() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    r.world.models["qwen"].crash()
    await r.world.clock.settle()
    await r.manager.ensure()
    assert sleeping(r) == ()
    change = await r.switch("qwen")
    assert (change.outcome, change.way) == (Outcome.DONE, "cold")


async def test_a_sleeper_woken_by_hand_does_not_stay_beside_the_resident_model() -> None:
    r = await sleepers()
    r.world.models["dolphin"].vram = r.world.models["qwen"].vram = 8 * GIB
    await r.switch("dolphin")
    await r.manager._ports.prober.http("http://127.0.0.1:8001/wake_up", timeout=5.0, method="POST")
    assert states(r) == {"qwen": "awake", "dolphin": "awake"}
    await r.manager.ensure()
    await r.world.clock.advance(5.0)
    assert states(r) == {"qwen": "down", "dolphin": "awake"}
    assert "slot.two-models" in r.kinds()


async def test_level_2_reads_the_weights_again() -> None:
    r = await sleepers(switch="sleep2")
    await there_and_back(r)
    assert r.world.models["qwen"].sleep.woken == 1
    assert starts(r, "qwen") == 0
    paths = [q.path for q in r.world.prober.requests if q.method == "POST" and "8001" in q.url]
    order = [p for p in paths if p.startswith(("/wake_up", "/collective", "/reset"))]
    assert order == ["/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache", "/reset_prefix_cache"]


async def test_a_unit_state_of_a_sleeper_is_active() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    assert r.world.units.state("vllm-qwen.service").active_state is ActiveState.ACTIVE


async def test_one_may_sleep_and_the_other_is_stopped() -> None:
    r = await sleepers()
    config = sleep_settings()
    spec = config.services["dolphin"].model
    assert spec is not None
    dolphin = msgspec.structs.replace(config.services["dolphin"], model=msgspec.structs.replace(spec, switch="stop"))
    await r.manager.apply(msgspec.structs.replace(config, services={**config.services, "dolphin": dolphin}))
    await there_and_back(r)
    assert states(r) == {"qwen": "awake", "dolphin": "down"}
    assert starts(r, "qwen") == 0


async def test_a_sleep_by_hand_of_the_model_that_serves_is_seen_and_closed_to_requests() -> None:
    r = await sleepers()
    await r.manager._ports.prober.http("http://127.0.0.1:8001/sleep?level=1", timeout=5.0, method="POST")
    await r.manager.ensure()
    slot = r.board.slot("gpu0")
    assert slot is not None
    assert (slot.state, slot.resident, slot.sleeping) == ("idle", None, ("qwen",))
    assert "model.asleep" in r.kinds()
    assert "model.stopped" not in r.kinds()
    assert r.world.models["qwen"].paused


async def test_fewer_sleepers_by_a_new_configuration_stops_the_longest_asleep() -> None:
    r = await sleepers("qwen", "dolphin", "phi", max_sleepers=2)
    await r.switch("dolphin")
    await r.switch("phi")
    assert sleeping(r) == ("qwen", "dolphin")
    await r.manager.apply(sleep_settings("qwen", "dolphin", "phi", max_sleepers=1))
    await r.manager.ensure()
    await r.world.clock.advance(5.0)
    assert states(r) == {"qwen": "down", "dolphin": "asleep", "phi": "awake"}


async def test_a_sleeper_is_not_restarted_and_says_so() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    with pytest.raises(AgentdError, match="qwen is asleep"):
        await r.manager.restart("qwen")


async def test_a_dry_run_says_that_the_target_would_be_woken_and_what_that_takes() -> None:
    r = await sleepers()
    await there_and_back(r)
    plan = await r.manager.plan(SwitchRequest("dolphin"))
    assert {i.check: i.detail for i in plan.checks}["start"] == "dolphin would be woken from level 1"
    assert plan.estimate_seconds is not None
    before = plan.estimate_seconds
    await there_and_back(r)
    plan = await r.manager.plan(SwitchRequest("dolphin"))
    woken, slept = (r.world.store.models[name].level(1) for name in ("dolphin", "qwen"))
    assert plan.estimate_seconds == woken.wake_seconds + slept.sleep_seconds
    assert plan.estimate_seconds < before
