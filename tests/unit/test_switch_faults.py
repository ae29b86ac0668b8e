"""Every phase with every fault, in virtual time: the documented end, the exit code, the cause, who serves then."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest
from fakes.rig import manager_of, rig, settings
from fakes.world import Behaviour, FakeWorld

from agentd.errors import AgentdError, ConflictError
from agentd.ports_models import CheckedFiles
from agentd.types import ActiveState, JobResult, Outcome
from agentd.wire import LeaseRequest, SwitchRequest, UnloadRequest


async def test_a_switch_moves_the_slot_and_leaves_nothing_behind() -> None:
    r = await rig()
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.DONE, 0)
    assert r.world.serving() == ["dolphin"]
    assert r.world.holders() == ["vllm-dolphin.service"]
    assert [p.phase for p in change.phases] == [
        "precheck", "drain", "release", "evict", "wait-vram", "start", "wait-ready", "verify",
    ]  # fmt: skip
    assert all(p.seconds is not None and p.result == "pass" for p in change.phases)
    assert r.board.slot("gpu0").resident == "dolphin"  # type: ignore[union-attr]


async def test_switching_to_the_resident_model_is_done_at_once() -> None:
    r = await rig()
    change = await r.switch("qwen")
    assert (change.outcome, change.exit_code) == (Outcome.ALREADY, 0)
    assert not r.world.units.calls


FAULTS: dict[str, tuple[Callable[[FakeWorld], None], Outcome, str]] = {
    "unit missing": (lambda w: w.units.remove("vllm-dolphin.service"), Outcome.REFUSED, "does not exist"),
    "unit masked": (
        lambda w: w.units.change("vllm-dolphin.service", load_state="masked"), Outcome.REFUSED, "is masked",
    ),
    "model path missing": (
        lambda w: w.files.texts.pop("/models/dolphin"), Outcome.REFUSED, "/models/dolphin does not exist",
    ),
    "program missing": (
        lambda w: w.units.change("vllm-dolphin.service", exec_start=("/opt/vllm/bin/vllm", "serve")), Outcome.REFUSED,
        "the program of vllm-dolphin.service is not there: /opt/vllm/bin/vllm",
    ),
    "port taken by a stranger": (
        lambda w: w.kernel.listen(8002, w.kernel.spawn("nginx")), Outcome.REFUSED, "port 8002 is taken by nginx",
    ),
    "GPU held by a stranger": (
        lambda w: w.gpus.hold(w.kernel.spawn("game"), 12 * 1024**3), Outcome.REFUSED, "game",
    ),
    "fails at once": (
        lambda w: setattr(w.models["dolphin"].behaviour, "exit_on_start", 1), Outcome.ROLLED_BACK, "status 1",
    ),
    "dies while loading": (
        lambda w: setattr(w.models["dolphin"], "die_loading", (2.0, 1, "torch.OutOfMemoryError: CUDA out of memory.")),
        Outcome.ROLLED_BACK, "out of memory",
    ),
    "never ready": (
        lambda w: setattr(w.models["dolphin"], "never_ready", True), Outcome.ROLLED_BACK, "not finished within 20 s",
    ),
    "unhealthy for ever": (
        lambda w: setattr(w.models["dolphin"], "health", 503), Outcome.ROLLED_BACK, "not finished within 20 s",
    ),
    "serves the wrong name": (
        lambda w: setattr(w.models["dolphin"], "served", "mistral"), Outcome.ROLLED_BACK, "serves mistral, not dolphin",
    ),
    "answers 500 to the canary": (
        lambda w: setattr(w.models["dolphin"], "canary", 500), Outcome.ROLLED_BACK, "completion answered 500",
    ),
    "start job ends with dependency": (
        lambda w: setattr(w.models["dolphin"].behaviour, "start_result", JobResult.DEPENDENCY),
        Outcome.ROLLED_BACK, "start",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_target_that_does_not_work_leaves_the_previous_model_serving(fault: str) -> None:
    plant, expected, cause = FAULTS[fault]
    r = await rig()
    plant(r.world)
    change = await r.switch("dolphin")
    assert change.outcome is expected, change
    assert cause in change.message, change.message
    assert r.world.serving() == ["qwen"]
    assert "vllm-dolphin.service" not in r.world.holders()
    if expected is Outcome.REFUSED:
        assert change.exit_code == 3
        assert not [c for c in r.world.units.calls if c[0] in ("start", "stop", "kill")]
    else:
        assert change.exit_code == 5
        assert "qwen is serving again" in change.message


async def test_no_rollback_leaves_the_slot_empty_and_says_so() -> None:
    r = await rig()
    r.world.models["dolphin"].canary = 500
    change = await r.switch("dolphin", rollback=False)
    assert (change.outcome, change.exit_code) == (Outcome.DEGRADED, 6)
    assert r.world.serving() == []
    assert "slot gpu0 is empty" in change.message


async def test_previous_model_gone_when_rolling_back_is_degraded_with_both_causes() -> None:
    r = await rig()
    r.world.models["dolphin"].canary = 500
    r.world.models["qwen"].behaviour.exit_on_start = 3
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.DEGRADED, 6)
    assert "completion answered 500" in change.message
    assert "qwen does not come back" in change.message


async def test_a_process_that_ignores_sigterm_is_killed_and_the_switch_goes_on() -> None:
    r = await rig()
    r.world.models["qwen"].behaviour.ignore_sigterm = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert r.world.serving() == ["dolphin"]


@pytest.mark.parametrize("answered", [False, True])
async def test_a_server_that_does_not_heed_sigterm_while_it_loads_is_not_waited_for(answered: bool) -> None:
    r = await rig()
    target = r.world.models["dolphin"]
    target.never_ready, target.canary = not answered, 500
    target.behaviour.ignore_sigterm = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK, change
    (cleanup,) = [p for p in change.phases if p.phase == "cleanup"]
    assert cleanup.seconds is not None
    assert cleanup.seconds > 60 if answered else cleanup.seconds < 10, cleanup
    assert r.world.serving() == ["qwen"]


async def test_an_orphan_child_is_killed_before_the_target_starts() -> None:
    r = await rig()
    r.world.models["qwen"].behaviour.orphan = True
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert r.world.holders() == ["vllm-dolphin.service"]


async def test_processes_that_survive_sigkill_wedge_the_slot_and_force_is_needed_then() -> None:
    r = await rig()
    r.world.models["qwen"].behaviour.unkillable = True
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.WEDGED, 7)
    with pytest.raises(AgentdError, match="wedged"):
        await r.switch("dolphin")


async def test_two_requests_join_or_conflict() -> None:
    r = await rig()
    first, joined = r.manager.switch(SwitchRequest("dolphin"))
    second, also = r.manager.switch(SwitchRequest("dolphin"))
    assert (joined, also, second.id) == (False, True, first.id)
    with pytest.raises(ConflictError) as refused:
        r.manager.switch(SwitchRequest("qwen"))
    assert refused.value.change_id == first.id
    assert (await r.end(first)).outcome is Outcome.DONE


async def test_cancel_in_drain_leaves_the_old_model_untouched() -> None:
    r = await rig()
    r.world.models["qwen"].running = 3
    r.world.models["qwen"].dev_mode = True
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(2)
    r.manager.cancel(change.id)
    ended = await r.end(change)
    assert (ended.outcome, ended.exit_code) == (Outcome.CANCELLED, 9)
    assert not [c for c in r.world.units.calls if c[0] in ("start", "stop")]
    assert not r.world.models["qwen"].paused


async def test_cancel_while_loading_goes_back() -> None:
    r = await rig()
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(3)
    r.manager.cancel(change.id)
    ended = await r.end(change)
    assert ended.outcome is Outcome.ROLLED_BACK
    assert r.world.serving() == ["qwen"]


@pytest.mark.parametrize(
    ("drain", "running", "dev_mode"), [(0.0, 1, False), (0.0, 1, True), (3.0, 1, False), (0.0, 0, False)]
)
async def test_a_server_whose_requests_are_cut_off_is_not_waited_for(
    drain: float, running: int, dev_mode: bool
) -> None:
    r = await rig()
    resident = r.world.models["qwen"]
    resident.running, resident.dev_mode = running, dev_mode
    resident.behaviour.ignore_sigterm = True
    change = await r.switch("dolphin", drain=drain)
    assert change.outcome is Outcome.DONE, change
    (release,) = [p for p in change.phases if p.phase == "release"]
    assert release.seconds is not None
    assert release.seconds < 20 if running else release.seconds > 60, release
    aborted = [q for q in r.world.prober.requests if q.path == "/pause?mode=abort"]
    assert bool(aborted) == bool(running)


async def test_a_request_that_comes_while_the_files_are_checked_is_waited_for() -> None:
    """The count of PRECHECK is old by then."""
    r = await rig()
    check = r.world.weights.check

    async def slow(path: str, *, checksums: bool = False) -> CheckedFiles:
        await asyncio.sleep(0.5)
        r.world.models["qwen"].running = 1
        return await check(path, checksums=checksums)

    r.world.weights.check = slow  # type: ignore[method-assign]
    assert (await r.switch("dolphin", drain=5.0, on_busy="refuse")).outcome is Outcome.DRAIN_REFUSED


async def test_drain_waits_for_requests_and_refuses_or_aborts_by_policy() -> None:
    r = await rig()
    r.world.models["qwen"].running = 1
    refused = await r.switch("dolphin", drain=5.0, on_busy="refuse")
    assert (refused.outcome, refused.exit_code) == (Outcome.DRAIN_REFUSED, 4)
    assert r.world.serving() == ["qwen"]
    aborted = await r.switch("dolphin", drain=5.0, on_busy="abort")
    assert aborted.outcome is Outcome.DONE
    drained = next(p for p in aborted.phases if p.phase == "drain")
    assert "1 requests still in flight" in drained.detail


@pytest.mark.parametrize(("listens", "outcome"), [(True, Outcome.DRAIN_REFUSED), (False, Outcome.DONE)])
async def test_only_who_does_not_listen_has_surely_no_request(listens: bool, outcome: Outcome) -> None:
    """The connection broke off, or the answer was no HTTP: that is all one kind of failure."""
    r = await rig()
    qwen = r.world.models["qwen"]
    handler = r.world.prober.handlers["http://127.0.0.1:8001"]
    r.world.prober.serve("http://127.0.0.1:8001", lambda q: None if q.path == "/metrics" or not listens else handler(q))
    change = await r.switch("dolphin", drain=5.0, on_busy="refuse")
    assert change.outcome is outcome, change
    assert qwen.ready == listens


async def test_unknown_request_counts_are_not_zero() -> None:
    r = await rig()
    r.world.models["qwen"].metrics = False
    refused = await r.switch("dolphin", drain=5.0, on_busy="refuse")
    assert refused.outcome is Outcome.DRAIN_REFUSED
    assert "unknown" in refused.message


async def test_a_failed_target_cools_down_and_force_overrides() -> None:
    r = await rig()
    r.world.models["dolphin"].canary = 500
    await r.switch("dolphin")
    r.world.models["dolphin"].canary = 200
    refused = await r.switch("dolphin")
    assert refused.outcome is Outcome.REFUSED
    assert "cooling down" in refused.message
    assert (await r.switch("dolphin", force=True)).outcome is Outcome.DONE


async def test_unload_empties_the_slot_and_is_remembered() -> None:
    r = await rig(default="qwen")
    change, _ = r.manager.unload(UnloadRequest())
    ended = await r.end(change)
    assert (ended.outcome, r.world.serving()) == (Outcome.DONE, [])
    again = manager_of(r.world, settings(default="qwen"))
    await again.manager.start(settings(default="qwen"))
    await r.world.clock.advance(300)
    assert r.world.serving() == []


async def test_the_default_model_is_started_in_an_empty_slot() -> None:
    r = await rig(resident=None, default="dolphin")
    await r.world.clock.advance(60)
    assert r.world.serving() == ["dolphin"]


async def test_a_lease_frees_the_slot_and_gives_it_back_also_after_a_restart() -> None:
    r = await rig()
    change, _ = r.manager.lease(LeaseRequest(3600.0))
    assert (await r.end(change)).outcome is Outcome.DONE
    assert r.world.serving() == []
    refused = await r.switch("dolphin")
    assert refused.outcome is Outcome.REFUSED
    assert "leased" in refused.message
    await r.manager.close()
    again = manager_of(r.world, settings())
    await again.manager.start(settings())
    await r.world.clock.advance(3000)
    assert r.world.serving() == []
    await r.world.clock.advance(700)
    assert r.world.serving() == ["qwen"]


async def test_a_model_whose_remains_are_being_killed_is_not_given_up_yet() -> None:
    """A server that dies leaves its engine; systemd ends that first, and then restarts the unit."""
    r = await rig()
    unit = "vllm-qwen.service"
    r.world.units.change(unit, active_state=ActiveState.DEACTIVATING, sub_state="final-sigterm")
    await r.manager.ensure()
    slot = r.board.slot("gpu0")
    assert slot is not None
    assert (slot.resident, "model.stopped" in r.kinds()) == ("qwen", False)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE, change
    assert r.world.serving() == ["dolphin"]
    assert ("stop", unit) in r.world.units.calls


async def test_a_model_that_was_stopped_by_hand_is_given_up_once_it_is_down() -> None:
    r = await rig()
    for state in (ActiveState.DEACTIVATING, ActiveState.INACTIVE):
        r.world.units.change("vllm-qwen.service", active_state=state, sub_state="dead")
        await r.manager.ensure()
    slot = r.board.slot("gpu0")
    assert slot is not None
    assert (slot.resident, "model.stopped" in r.kinds()) == (None, True)


async def test_a_model_started_by_hand_is_adopted_without_a_fight() -> None:
    r = await rig()
    await r.world.units.start("vllm-dolphin.service")
    await r.world.clock.advance(60)
    await r.manager.ensure()
    assert r.board.slot("gpu0").resident == "dolphin"  # type: ignore[union-attr]
    assert "model.adopted" in r.kinds()
    assert r.world.serving() == ["dolphin"]
    assert [c for c in r.world.units.calls if c[0] == "start"] == [("start", "vllm-dolphin.service")]


async def test_a_third_party_start_during_the_switch_is_not_fought() -> None:
    r = await rig()
    r.world.models["dolphin"].die_loading = (3.0, 1, "boom")
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(2)
    await r.world.units.start("vllm-qwen.service")
    ended = await r.end(change)
    assert ended.outcome is Outcome.ROLLED_BACK
    await r.world.clock.advance(60)
    assert r.world.serving() == ["qwen"]


async def test_ollama_is_asked_to_leave_before_the_start() -> None:
    r = await rig()
    ollama = r.world.add_ollama()
    ollama.load("llama3", 6 * 1024**3)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert not ollama.loaded
    assert "llama3" in next(p.detail for p in change.phases if p.phase == "evict")


async def test_gpu_memory_that_comes_back_late_is_waited_for() -> None:
    r = await rig()
    r.world.gpus.lag = 4.0
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    waited = next(p for p in change.phases if p.phase == "wait-vram")
    assert waited.seconds is not None
    assert waited.seconds >= 4.0


async def test_a_full_disk_refuses_before_anything_is_touched() -> None:
    r = await rig()
    r.world.store.fail = AgentdError("journal-full", "cannot write the journal: no space left on device")
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert "no space left" in change.message
    assert not [c for c in r.world.units.calls if c[0] in ("start", "stop")]


async def test_a_bus_that_is_away_while_the_model_loads_is_waited_for() -> None:
    r = await rig()
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(2.0)
    r.world.units.drop_bus()
    r.manager.unit_changed(None)
    await r.world.clock.advance(1.0)
    r.world.units.restore_bus()
    ended = await r.end(change)
    assert ended.outcome is Outcome.DONE, ended
    assert r.world.serving() == ["dolphin"]


async def test_the_bus_away_is_refused_in_precheck() -> None:
    r = await rig()
    r.world.units.drop_bus()
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED


def test_behaviour_is_what_the_rig_expects() -> None:
    assert {f.name for f in dataclasses.fields(Behaviour)} >= {"orphan", "ignore_sigterm", "unkillable"}
