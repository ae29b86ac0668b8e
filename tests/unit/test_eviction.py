"""Ollama on the GPU when a model is to start, by policy: it leaves and is seen to have left, or the change says why."""

from __future__ import annotations

import pytest
from fakes import answer
from fakes.ollama import FakeOllama
from fakes.prober import Reply, Request
from fakes.rig import Rig, manager_of, rig, settings

from agentd.core.schema import Runtime, Service, Settings
from agentd.core.switch import State
from agentd.errors import AgentdError
from agentd.managers.models.context import SwitchRun
from agentd.managers.models.eviction import recheck
from agentd.types import ActiveState, Change, Outcome
from agentd.wire import LeaseRequest, PrecheckItem, SwitchRequest, UnloadRequest

GIB = 1024**3
LLAMA, MISTRAL = "llama3:8b", "mistral:7b"
OLLAMA = "ollama.service"


def with_policy(policy: str = "evict", managed: str = "unit", **slot: object) -> Settings:
    made = settings(**slot)
    runtime = Runtime(policy=policy, managed=managed)  # type: ignore[arg-type]
    ollama = Service(unit=OLLAMA, role="runtime", url="http://127.0.0.1:11434", runtime=runtime)
    services = {**made.services, "ollama": ollama}
    return Settings(slots=made.slots, services=services)


async def beside(policy: str = "evict", managed: str = "unit", **slot: object) -> tuple[Rig, FakeOllama]:
    """qwen serves; Ollama runs and has nothing loaded. 40 GiB, so that both fit."""
    r = await rig(**slot)
    r.world.gpus.total = 40 * GIB
    ollama = r.world.add_ollama()
    await r.manager.apply(with_policy(policy, managed, **slot))
    return r, ollama


def detail(change: Change, phase: str = "evict") -> str:
    return next(p.detail for p in reversed(change.phases) if p.phase == phase)


def evictions(r: Rig) -> dict[str, int]:
    return {key[1]: n for (name, key), n in r.counters.snapshot().items() if name == "agentd_runtime_evict"}


def phases(change: Change) -> list[str]:
    return [p.phase for p in change.phases]


# -- evict ----------------------------------------------------------------------------------------------------------


async def test_every_model_on_the_gpu_is_unloaded_and_told() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    ollama.load(MISTRAL)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert detail(change) == f"ollama: unloaded {LLAMA} (5G), {MISTRAL} (5G)"
    assert not ollama.loaded
    assert r.world.holders() == ["vllm-dolphin.service"]
    assert evictions(r) == {"evicted": 1}


async def test_a_model_on_the_cpu_may_stay() -> None:
    r, ollama = await beside()
    r.world.gpus.total = 16 * GIB - 256 * 1024**2  # full with qwen and the driver
    ollama.load(LLAMA)
    ollama.loaded[LLAMA] = 0
    r.world.gpus.release(ollama.pids[LLAMA])
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert detail(change) == "nothing loaded elsewhere"
    assert list(ollama.loaded) == [LLAMA]
    assert "/api/generate" not in ollama.asked


@pytest.mark.parametrize("lag", [0.0, 8.0])
async def test_memory_that_comes_back_late_is_waited_for(lag: float) -> None:
    r, ollama = await beside()
    r.world.gpus.lag = lag
    ollama.load(LLAMA, 20 * GIB)
    before = r.world.clock.time()
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert r.world.clock.time() - before >= lag


async def test_a_listed_runner_that_keeps_its_memory_is_not_taken_for_gone() -> None:
    """/api/ps lists nothing any more, NVML still shows the runner with all that it held."""
    r, ollama = await beside(evict_timeout=6.0)
    ollama.load(LLAMA)
    ollama.lingers = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert f"ollama has unloaded {LLAMA} (5G), but the GPU memory is not back after 6 s" in change.message


async def test_three_quarters_are_enough() -> None:
    """What it says its models hold is an estimate; the server itself may keep a little."""
    r, ollama = await beside()
    ollama.load(LLAMA, 8 * GIB)
    r.world.gpus.hold(ollama.pids[LLAMA], 7 * GIB)
    r.world.gpus.hold(r.world.kernel.spawn("ollama", unit=OLLAMA), GIB)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change


async def test_where_the_driver_does_not_tell_per_process_the_total_must_fall() -> None:
    r, ollama = await beside(evict_timeout=6.0)
    ollama.load(LLAMA)
    r.world.gpus.holders[ollama.pids[LLAMA]] = (0, 0)
    r.world.gpus.base += 5 * GIB
    clock = r.world.clock
    freed = clock.time() + 4.0

    async def switched() -> Change:
        change, _ = r.manager.switch(SwitchRequest("dolphin"))
        await clock.advance(freed - clock.time())
        r.world.gpus.base -= 5 * GIB
        return await r.end(change)

    change = await switched()
    assert change.outcome is Outcome.DONE, change
    evicted = next(p for p in change.phases if p.phase == "evict")
    assert evicted.started + (evicted.seconds or 0) >= freed


async def test_without_a_gpu_its_word_is_enough() -> None:
    r, ollama = await beside()
    r.world.gpus.present = False
    ollama.load(LLAMA)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert detail(change) == f"ollama: unloaded {LLAMA} (5G)"


async def test_a_request_in_flight_holds_the_model_and_the_change_names_it() -> None:
    r, ollama = await beside(evict_timeout=6.0)
    ollama.load(LLAMA)
    ollama.busy[LLAMA] = 1
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.ROLLED_BACK, 5)
    assert f"ollama still holds {LLAMA} (5G) after 6 s: a request in flight keeps it" in change.message
    assert r.world.serving() == ["qwen"]
    assert evictions(r) == {"failed": 1}


async def test_a_request_that_ends_in_time_only_delays() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    ollama.busy[LLAMA] = 1
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(5)
    ollama.finish(LLAMA)
    assert (await r.end(change)).outcome is Outcome.DONE


async def test_one_that_says_yes_and_stays_is_named() -> None:
    r, ollama = await beside(evict_timeout=6.0)
    ollama.load(LLAMA)
    ollama.stubborn = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert "a request in flight keeps it, or a client asks again" in change.message
    assert 2 <= ollama.asked.count("/api/generate") <= 12, "asked again, but not at every look"


async def test_a_model_that_it_does_not_know_any_more_is_named_with_its_answer() -> None:
    r, ollama = await beside(evict_timeout=6.0)
    ollama.load("custom", GIB)
    del ollama.library["custom"]
    entry = {"name": "custom", "size": GIB, "size_vram": GIB}
    ollama.ps = answer(200, {"models": [entry]})
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert "it answered 404: model 'custom' not found" in change.message


async def test_one_that_ends_while_it_unloads_is_gone() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    ollama.busy[LLAMA] = 1
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(3)
    r.world.units.die(OLLAMA, status=1)
    assert (await r.end(change)).outcome is Outcome.DONE


# -- not to be asked ------------------------------------------------------------------------------------------------


async def test_one_that_does_not_run_is_no_hindrance() -> None:
    r, ollama = await beside()
    ollama.gone = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert evictions(r) == {}


BAD = {
    "garbage": ("<html>", "something that is not JSON"),
    "no list": ('{"models": 3}', "not a model list"),
    "no names": ('{"models": [{}]}', "a model without a name"),
    "deep": ("[" * 100_000, "something that is not JSON"),
    "not found": (answer(404, "404 page not found"), "answered 404: 404 page not found"),
    "an error": (answer(500, {"error": "out of luck"}), "answered 500: out of luck"),
    "silent": (3600.0, "no answer within"),
}


@pytest.mark.parametrize("fault", BAD)
async def test_a_bad_answer_refuses_the_change_while_it_may_hold_memory(fault: str) -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    ollama.ps, text = BAD[fault]
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.REFUSED, 3), change
    assert text in change.message
    assert r.world.serving() == ["qwen"]


@pytest.mark.parametrize("fault", BAD)
async def test_a_bad_answer_is_no_matter_where_nvml_shows_nothing_of_it(fault: str) -> None:
    r, ollama = await beside()
    ollama.ps = BAD[fault][0]
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert "holds no GPU memory" in detail(change)
    assert evictions(r) == {"unanswered": 1}


def broken_off(r: Rig, ollama: FakeOllama) -> None:
    """It takes connections and sends no HTTP: for the prober a failure as one that does not run is."""

    def reply(request: Request) -> Reply:
        if request.path == "/api/ps":
            raise AgentdError("probe-failed", f"cannot read {request.url}: the answer is not HTTP")
        return ollama.reply(request)

    r.world.prober.serve(ollama.url, reply)


async def test_an_answer_that_is_no_http_refuses_the_change_while_it_may_hold_memory() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    broken_off(r, ollama)
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.REFUSED, 3), change
    assert "ollama: cannot read http://127.0.0.1:11434/api/ps: the answer is not HTTP" in change.message
    assert r.world.serving() == ["qwen"]


async def test_an_answer_that_is_no_http_is_no_matter_where_nvml_shows_nothing_of_it() -> None:
    r, ollama = await beside()
    broken_off(r, ollama)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert evictions(r) == {"unanswered": 1}


async def test_an_answer_that_breaks_off_while_it_unloads_is_not_taken_for_gone() -> None:
    r, ollama = await beside(evict_timeout=6.0)
    r.world.gpus.present = False
    ollama.load(LLAMA)
    ollama.busy[LLAMA] = 1
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while "/api/generate" not in ollama.asked:
        await r.world.clock.advance(0.01)
    broken_off(r, ollama)
    ended = await r.end(change)
    assert f"ollama still holds {LLAMA} (5G) after 6 s" in ended.message


@pytest.mark.parametrize("listens", [True, False])
async def test_where_memory_is_not_measured_only_a_refused_connection_counts_as_not_running(listens: bool) -> None:
    r, ollama = await beside()
    r.world.gpus.present = False
    ollama.gone = not listens
    broken_off(r, ollama)
    if not listens:
        r.world.prober.serve(ollama.url, ollama.reply)
    change = await r.switch("dolphin")
    assert change.outcome is (Outcome.REFUSED if listens else Outcome.DONE), change


async def test_one_that_takes_no_connections_and_holds_memory_refuses_the_change() -> None:
    """As with a wrong port in its url."""
    r, ollama = await beside()
    ollama.load(LLAMA)
    ollama.gone = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED, change
    assert "ollama: cannot connect to" in change.message


async def test_another_program_of_the_same_name_is_no_container_that_does_not_run() -> None:
    r, ollama = await beside(managed="container")
    r.world.units.remove(OLLAMA)
    ollama.gone = True
    r.world.gpus.hold(r.world.kernel.spawn("llama-server", unit="mine.service"), GIB)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE


# -- no loop, no fight ----------------------------------------------------------------------------------------------


async def test_nothing_is_unloaded_where_nothing_is_to_start() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    change, _ = r.manager.unload(UnloadRequest("gpu0"))
    assert (await r.end(change)).outcome is Outcome.DONE
    assert list(ollama.loaded) == [LLAMA]
    for _ in range(5):
        await r.manager.ensure()
        await r.world.clock.advance(60)
    assert "/api/generate" not in ollama.asked


async def test_a_refused_switch_unloads_nothing() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    r.world.units.change("vllm-dolphin.service", load_state="masked")
    assert (await r.switch("dolphin")).outcome is Outcome.REFUSED
    assert list(ollama.loaded) == [LLAMA]


async def test_a_lease_frees_the_gpu() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    change, _ = r.manager.lease(LeaseRequest(60.0, "gpu0"))
    assert (await r.end(change)).outcome is Outcome.DONE
    assert not ollama.loaded


async def test_a_client_that_loads_again_before_the_start_is_evicted_once_more() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    ollama.reloads, ollama.reload_after = 1, 0.3
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert phases(change).count("evict") == 2
    assert f"ollama has loaded {LLAMA} (5G) again meanwhile" in [p.detail for p in change.phases]
    assert not ollama.loaded


async def test_a_client_that_loads_again_and_again_ends_the_change_with_its_name() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    ollama.reloads, ollama.reload_after = 100, 0.3
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK, change
    assert (
        f"ollama has loaded {LLAMA} (5G) again, after it was evicted 3 times: a client keeps asking" in change.message
    )
    assert phases(change).count("evict") == 3
    assert r.world.serving() == ["qwen"]
    assert evictions(r)["reloaded"] == 1


async def test_a_client_that_never_stops_does_not_end_the_way_back() -> None:
    """Its processes are in no unit that is known, and there is room for one of the two alone."""
    r, ollama = await beside(vram_timeout=20.0)
    r.world.gpus.total = 17 * GIB
    ollama.reloads, ollama.reload_after = 100, 0.3
    load = ollama.load

    def unnamed(model: str, size: int = 0) -> None:
        load(model, size)
        r.world.kernel.processes[ollama.pids[model]].unit = "session-1.scope"

    ollama.load = unnamed  # type: ignore[method-assign]
    ollama.load(LLAMA)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DEGRADED, change
    assert "no room to go back" in detail(change, "settle")
    assert r.world.serving() == []


async def test_a_sleep_check_leaves_it_alone() -> None:
    """The model gives its memory back for a moment only, and to itself."""
    r, ollama = await beside()
    ollama.load(LLAMA)
    ctx = r.manager._owners["gpu0"].ctx

    async def again(kind: str) -> bool:
        change = Change("s1", kind, "gpu0", "qwen", "qwen", r.world.clock.time(), "start")
        return await recheck(ctx, SwitchRun(change=change, before=State.ACTIVE, state=State.START)) is not None

    assert [await again("switch"), await again("sleep-check")] == [True, False]


# -- ignore, cpu_only -----------------------------------------------------------------------------------------------


async def test_what_is_ignored_counts_as_foreign() -> None:
    r, ollama = await beside("ignore")
    r.world.gpus.total = 24 * GIB
    ollama.load(LLAMA, 9 * GIB)
    r.world.gpus.holders[ollama.pids[LLAMA]] = (0, 12 * GIB)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert "held by others: ollama.service" in change.message
    assert ollama.asked == []


async def test_what_is_ignored_is_left_alone_where_both_fit() -> None:
    r, ollama = await beside("ignore")
    ollama.load(LLAMA)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert ollama.asked == []
    assert list(ollama.loaded) == [LLAMA]


async def test_cpu_only_refuses_before_anything_is_touched_when_it_is_on_the_gpu() -> None:
    r, ollama = await beside("cpu_only")
    ollama.load(LLAMA)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert f"ollama is to stay on the CPU, but has on the GPU: {LLAMA} (5G)" in change.message
    assert "/api/generate" not in ollama.asked
    assert list(ollama.loaded) == [LLAMA]


async def test_cpu_only_passes_when_nothing_of_it_is_there() -> None:
    r, ollama = await beside("cpu_only")
    ollama.load(LLAMA)
    ollama.loaded[LLAMA] = 0
    r.world.gpus.release(ollama.pids[LLAMA])
    assert (await r.switch("dolphin")).outcome is Outcome.DONE


async def test_the_dry_run_says_what_would_be_unloaded() -> None:
    r, ollama = await beside()
    ollama.load(LLAMA)
    plan = await r.manager.plan(SwitchRequest("dolphin"))
    assert PrecheckItem("runtime", True, f"ollama is to unload: {LLAMA} (5G)") in plan.checks
    assert "/api/generate" not in ollama.asked


# -- stop_unit ------------------------------------------------------------------------------------------------------


def up(r: Rig) -> bool:
    return r.world.units.state(OLLAMA).active_state is ActiveState.ACTIVE


async def rested(r: Rig) -> None:
    """A pass of the loop after the change."""
    await r.manager.ensure()
    await r.world.clock.advance(1)


@pytest.mark.parametrize("canary", [200, 500])
async def test_stop_unit_stops_it_for_the_change_whatever_its_outcome(canary: int) -> None:
    r, ollama = await beside("stop_unit")
    ollama.load(LLAMA)
    r.world.models["dolphin"].canary = canary
    change = await r.switch("dolphin")
    assert detail(change) == "ollama: ollama.service is stopped until the change is over"
    assert change.outcome is (Outcome.DONE if canary == 200 else Outcome.ROLLED_BACK)
    await rested(r)
    assert up(r)
    assert (await r.world.store.slot("gpu0")).parked == ()
    assert r.kinds().count("runtime.restored") == 1
    await rested(r)
    assert r.world.units.calls.count(("start", OLLAMA)) == 1


async def test_stop_unit_leaves_a_unit_alone_that_does_not_run() -> None:
    r, _ = await beside("stop_unit")
    await r.world.units.stop(OLLAMA)
    await r.world.clock.advance(1)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    await rested(r)
    assert not up(r)


async def test_it_is_not_stopped_while_that_cannot_be_noted() -> None:
    r, _ = await beside("stop_unit")

    async def full(record: object) -> None:
        raise AgentdError("journal-full", "cannot write the journal: no space left on device")

    save, r.world.store.save_slot = r.world.store.save_slot, full  # type: ignore[method-assign]
    change = await r.switch("dolphin")
    r.world.store.save_slot = save  # type: ignore[method-assign]
    assert change.outcome is Outcome.ROLLED_BACK
    assert "no space left" in change.message
    assert up(r)


async def test_a_crash_of_agentd_between_the_stop_and_the_end_brings_it_back() -> None:
    r, ollama = await beside("stop_unit")
    ollama.load(LLAMA)
    r.manager.switch(SwitchRequest("dolphin"))
    while up(r):
        await r.world.clock.advance(0.05)
    await r.manager.close()
    assert (await r.world.store.slot("gpu0")).parked == ("ollama",)
    again = manager_of(r.world, with_policy("stop_unit"))
    await again.manager.start(with_policy("stop_unit"))
    await r.world.clock.advance(60)
    await rested(again)
    assert up(again)
    assert len(again.world.serving()) == 1
    assert (await r.world.store.slot("gpu0")).parked == ()


async def test_it_comes_back_also_when_the_policy_was_changed_meanwhile() -> None:
    r, ollama = await beside("stop_unit")
    ollama.load(LLAMA)
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while up(r):
        await r.world.clock.advance(0.05)
    await r.manager.apply(with_policy("ignore", evict=()))
    assert (await r.end(change)).outcome is Outcome.DONE
    await rested(r)
    assert up(r)


async def test_a_start_that_fails_is_tried_at_the_next_pass() -> None:
    r, _ = await beside("stop_unit")
    await r.switch("dolphin")
    r.world.units.refuse["start"] = AgentdError("bus-timeout", "no answer")
    with pytest.raises(AgentdError, match="no answer"):
        await r.manager.ensure()
    r.world.units.refuse.clear()
    await rested(r)
    assert up(r)


async def test_what_systemd_will_not_start_is_told_once_and_forgotten() -> None:
    r, _ = await beside("stop_unit")
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while up(r):
        await r.world.clock.advance(0.05)
    r.world.units.remove(OLLAMA)
    assert (await r.end(change)).outcome is Outcome.DONE
    await rested(r)
    await rested(r)
    assert r.kinds().count("runtime.not-restored") == 1
    assert (await r.world.store.slot("gpu0")).parked == ()


async def test_what_was_switched_off_meanwhile_stays_down() -> None:
    r, _ = await beside("stop_unit")
    await r.switch("dolphin")
    config = with_policy("stop_unit")
    off = Service(unit=OLLAMA, enabled=False, role="runtime", url="http://127.0.0.1:11434")
    await r.manager.apply(Settings(slots=config.slots, services={**config.services, "ollama": off}))
    await rested(r)
    assert not up(r)
    assert (await r.world.store.slot("gpu0")).parked == ()


# -- whose memory ---------------------------------------------------------------------------------------------------


async def test_a_container_is_known_by_its_program() -> None:
    r, ollama = await beside(managed="container")
    r.world.units.remove(OLLAMA)
    ollama.load(LLAMA)
    assert r.world.kernel.unit_of(ollama.pids[LLAMA]) == ""
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert detail(change) == f"ollama: unloaded {LLAMA} (5G)"


async def test_a_policy_that_is_changed_by_a_reload_counts_from_the_next_change() -> None:
    r, ollama = await beside("ignore")
    ollama.load(LLAMA)
    await r.switch("dolphin")
    assert ollama.loaded
    await r.manager.apply(with_policy("evict"))
    await r.switch("qwen")
    assert not ollama.loaded


# -- on the way back ------------------------------------------------------------------------------------------------


async def test_a_client_that_loads_while_memory_is_waited_for_does_not_cost_the_whole_wait() -> None:
    r, ollama = await beside(vram_timeout=60.0)
    r.world.gpus.total = 20 * GIB
    ollama.load(LLAMA)
    r.world.gpus.lag = 3.0  # so that WAIT_VRAM is still at it
    ollama.reloads, ollama.reload_after = 1, 1.0
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    waits = [p for p in change.phases if p.phase == "wait-vram"]
    assert [p.result for p in waits] == ["retry", "pass"]
    assert (waits[0].seconds or 0) < 10


async def test_the_way_back_evicts_as_well() -> None:
    """The target failed, and meanwhile a client has taken the room of the model before."""
    r, ollama = await beside()
    r.world.gpus.total = 20 * GIB
    dolphin = r.world.models["dolphin"]
    dolphin.die_loading = (2.0, 1, "ValueError: no such architecture")
    r.world.units.on_death.append(lambda unit: ollama.load(LLAMA) if unit == dolphin.unit else None)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK, change
    assert r.world.serving() == ["qwen"]
    assert not ollama.loaded


async def test_a_runtime_that_never_leaves_empties_the_slot_and_wedges_nothing() -> None:
    r, ollama = await beside(evict_timeout=6.0, vram_timeout=10.0)
    r.world.gpus.total = 17 * GIB
    ollama.load(LLAMA)
    ollama.busy[LLAMA] = 1
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.DEGRADED, 6), change
    assert f"ollama still holds {LLAMA} (2.8G)" in change.message
    ollama.finish(LLAMA)
    await r.world.clock.advance(60)
    assert (await r.switch("qwen")).outcome is Outcome.DONE, "no force is needed"


async def test_a_cancel_does_not_change_what_a_way_back_that_takes_too_long_counts_as() -> None:
    r = await rig()
    r.world.models["qwen"].never_ready = True
    change, _ = r.manager.unload(UnloadRequest("gpu0"))
    await r.world.clock.advance(0.01)
    r.manager.cancel(change.id)
    ended = await r.end(change)
    assert ended.outcome is Outcome.DEGRADED, ended
    assert not await r.world.store.open_changes()
