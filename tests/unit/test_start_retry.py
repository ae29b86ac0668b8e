"""A start that dies because memory was still moving is tried once more within its switch; nothing else is."""

from __future__ import annotations

import asyncio

import pytest
from fakes.rig import Rig, manager_of, rig, settings
from fakes.world import FakeModel

from agentd.types import Change, Outcome
from agentd.wire import SwitchRequest

GATE = (
    "ValueError: Free memory on device cuda:0 (16.90/24.00 GiB) on startup is less than desired GPU memory utilization "
    "(0.9, 21.60 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
PROFILING = (
    "AssertionError: Error in memory profiling. Initial free memory 20.10 GiB, current free memory 21.90 GiB. This "
    "happens when other processes sharing the same container release GPU memory while vLLM is profiling."
)
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB."
KV = "ValueError: No available memory for the cache blocks."
UNIT = "vllm-dolphin.service"


def failing(model: FakeModel, line: str, *, times: int = 1, after: float = 1.0) -> None:
    """Its first starts die with this line."""
    model.die_loading = (after, 1, line)

    def started(unit: str, _pid: int) -> None:
        if unit == model.unit and model.world.units.units[unit].starts >= times:
            model.die_loading = None

    model.world.units.on_start.append(started)


def starts(r: Rig) -> int:
    return r.world.units.units[UNIT].starts


def phases(change: Change) -> list[str]:
    return [f"{p.phase}:{p.result}" for p in change.phases]


@pytest.mark.parametrize(("line", "kind"), [(GATE, "startup-gate"), (PROFILING, "profiling")])
async def test_memory_that_was_still_moving_is_given_a_second_try(line: str, kind: str) -> None:
    r = await rig()
    failing(r.world.models["dolphin"], line)
    change = await r.switch("dolphin")
    assert (change.outcome, change.cause) == (Outcome.DONE, "")
    assert r.world.serving() == ["dolphin"]
    assert phases(change)[4:] == [
        "wait-vram:pass", "start:pass", "wait-ready:retry",
        "evict:pass", "wait-vram:pass", "start:pass", "wait-ready:pass", "verify:pass",
    ]  # fmt: skip
    assert "it is started once more" in change.phases[6].detail
    assert starts(r) == 2
    counts = r.counters.snapshot()
    assert counts["agentd_start_retry", ("dolphin", kind)] == 1
    assert counts["agentd_model_out_of_memory", ("dolphin", kind)] == 1
    assert "start.retried" in r.kinds()


async def test_a_second_failure_ends_in_the_previous_model() -> None:
    r = await rig()
    failing(r.world.models["dolphin"], GATE, times=9)
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.ROLLED_BACK, 5)
    assert "not enough free GPU memory (16.90G of 24G free" in change.cause.replace("16.9G", "16.90G")
    assert "lower --gpu-memory-utilization to 0.70 at most" in change.cause
    assert r.world.serving() == ["qwen"]
    assert starts(r) == 2
    assert r.counters.snapshot()["agentd_start_retry", ("dolphin", "startup-gate")] == 1


@pytest.mark.parametrize(("line", "kind"), [(CUDA, "cuda"), (KV, "kv-cache")])
async def test_what_does_not_pass_by_itself_is_not_tried_again(line: str, kind: str) -> None:
    r = await rig()
    failing(r.world.models["dolphin"], line, times=9)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert starts(r) == 1
    assert r.counters.snapshot()["agentd_model_out_of_memory", ("dolphin", kind)] == 1


async def test_a_start_that_systemd_calls_failed_is_tried_again_too() -> None:
    r = await rig()
    model = r.world.models["dolphin"]
    model.behaviour.start_seconds = 2.0
    failing(model, GATE)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert starts(r) == 2


async def test_systemd_that_restarts_it_meanwhile_is_stopped_first() -> None:
    r = await rig()
    model = r.world.models["dolphin"]
    model.behaviour.restart, model.behaviour.restart_seconds = True, 5.0
    failing(model, PROFILING)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert starts(r) == 2, "the automatic restart must not come as a third start"
    assert r.world.units.calls.count(("stop", UNIT)) == 1


async def test_the_second_start_waits_until_memory_is_still() -> None:
    """nvidia-smi showed nothing, vLLM saw half of the GPU taken: another process was letting go of it."""
    r = await rig()
    model = r.world.models["dolphin"]
    failing(model, GATE, after=0.5)
    ghost = r.world.kernel.spawn("job")
    loop = asyncio.get_running_loop()

    def started(unit: str, _pid: int) -> None:
        if unit == UNIT and r.world.units.units[UNIT].starts == 1:
            r.world.gpus.hold(ghost, 6 * 1024**3)
            loop.call_later(4.0, r.world.kernel.exit, ghost)

    r.world.units.on_start.append(started)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    second = [p for p in change.phases if p.phase == "wait-vram"][1]
    assert second.seconds is not None
    assert second.seconds >= 1.0, "the stability window begins anew"


async def test_a_cancel_ends_the_second_try_as_well() -> None:
    r = await rig(vram_stable=5.0)
    failing(r.world.models["dolphin"], GATE)
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while starts(r) < 1:
        await r.world.clock.advance(0.5)
    await r.world.clock.advance(3.0)
    r.manager.cancel(change.id)
    last = await r.end(change)
    assert last.outcome is Outcome.ROLLED_BACK
    assert starts(r) == 1
    assert r.world.serving() == ["qwen"]


async def test_agentd_killed_within_the_second_try_goes_back() -> None:
    r = await rig(vram_stable=5.0)
    failing(r.world.models["dolphin"], GATE)
    r.manager.switch(SwitchRequest("dolphin"))
    while starts(r) < 1:
        await r.world.clock.advance(0.5)
    await r.world.clock.advance(3.0)
    await r.manager.close()
    again = manager_of(r.world, settings(vram_stable=5.0))
    await again.manager.start(settings(vram_stable=5.0))
    await r.world.clock.advance(60.0)
    assert r.world.serving() == ["qwen"]
    assert not await r.world.store.open_changes()


async def test_every_switch_has_its_own_second_try() -> None:
    r = await rig()
    for _ in range(2):
        model = r.world.models["dolphin"]
        model.world.units.units[UNIT].starts = 0
        failing(model, GATE)
        assert (await r.switch("dolphin")).outcome is Outcome.DONE
        assert (await r.switch("qwen")).outcome is Outcome.DONE
    assert r.counters.snapshot()["agentd_start_retry", ("dolphin", "startup-gate")] == 2


async def test_the_way_back_has_a_second_try_too() -> None:
    """An empty slot is the worst end: what made the target fail may make the previous model fail once as well."""
    r = await rig()
    r.world.models["dolphin"].canary = 500
    qwen = r.world.models["qwen"]
    r.world.units.units[qwen.unit].starts = 0
    failing(qwen, PROFILING)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert r.world.serving() == ["qwen"]
    assert r.world.units.units[qwen.unit].starts == 2
    assert r.counters.snapshot()["agentd_start_retry", ("qwen", "profiling")] == 1


async def test_the_way_back_gives_up_after_the_second_try() -> None:
    r = await rig()
    r.world.models["dolphin"].canary = 500
    qwen = r.world.models["qwen"]
    failing(qwen, PROFILING, times=9)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DEGRADED
    assert "qwen does not come back" in change.message
    assert r.world.units.units[qwen.unit].starts == 2
