"""The fakes behave as what they stand for; the engine's tests lean on that."""

from __future__ import annotations

import asyncio
import time

import pytest
from fakes import Behaviour, FakeClock, FakeWorld

from agentd.errors import AgentdError, BusError
from agentd.types import ActiveState, JobResult

A, B = "vllm-dolphin.service", "vllm-qwen.service"


def two_models(**settings: float) -> FakeWorld:
    world = FakeWorld()
    world.add_model("dolphin", 8002, **settings)
    world.add_model("qwen", 8001, **settings)
    world.exclusive()
    return world


async def test_virtual_time_leaps_and_keeps_order() -> None:
    clock = FakeClock()
    real, began = time.monotonic(), clock.monotonic()
    seen: list[str] = []

    async def note(delay: float, word: str) -> None:
        await clock.sleep(delay)
        seen.append(word)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await asyncio.gather(note(20, "b"), note(10, "a"), note(7200, "never"))
    assert seen == ["a", "b"]
    assert clock.monotonic() - began == pytest.approx(3600)
    assert time.monotonic() - real < 2


async def test_an_endless_poll_fails() -> None:
    with pytest.raises(RuntimeError, match="virtual seconds"):
        FakeClock(limit=50)._leap(51)


async def test_a_started_model_serves_after_its_load() -> None:
    world = two_models(load=12.0)
    job = await world.units.start(B)
    assert await job.wait(5) is JobResult.DONE
    assert world.units.state(B).main_pid in world.kernel.cgroup_pids(world.units.state(B).control_group)
    with pytest.raises(AgentdError, match="connection refused"):
        await world.prober.http("http://127.0.0.1:8001/health", timeout=1)
    await world.clock.advance(12)
    assert (await world.prober.http("http://127.0.0.1:8001/v1/models", timeout=1)).status == 200
    assert (await world.gpus.read()).processes[0].used == world.models["qwen"].vram
    assert world.kernel.port_holder(8001) is not None


async def test_conflicts_stop_the_other_before_the_start() -> None:
    world = two_models()
    world.serve_at_once("dolphin")
    assert world.serving() == ["dolphin"]
    changed: list[str | None] = []
    world.units.on_change(changed.append)
    await world.units.watch([A, B])
    assert await (await world.units.start(B)).wait(5) is JobResult.DONE
    states = [(name, state) for _, name, state in world.units.history]
    assert states.index((A, ActiveState.INACTIVE)) < states.index((B, ActiveState.ACTIVATING))
    assert world.units.active() == [B]
    assert set(changed) == {A, B}
    assert world.holders() == [B]


async def test_job_results_and_deaths() -> None:
    world = two_models()
    how = world.models["qwen"].behaviour
    how.exit_on_start = 203
    assert await (await world.units.start(B)).wait(5) is JobResult.FAILED
    assert world.units.state(B).exec_status == 203
    how.exit_on_start, how.start_seconds = None, 500.0
    with pytest.raises(AgentdError) as caught:
        await (await world.units.start(B)).wait(5)
    assert caught.value.kind == "job-timeout"
    start = await world.units.start(B)
    stop = await world.units.stop(B)
    assert await start.wait(1) is JobResult.CANCELED
    assert await stop.wait(1) is JobResult.DONE
    how.start_seconds, how.ignore_sigterm, how.stop_timeout = 0.1, True, 30.0
    await (await world.units.start(B)).wait(5)
    before = world.clock.monotonic()
    assert await (await world.units.stop(B)).wait(60) is JobResult.DONE
    assert world.clock.monotonic() - before == pytest.approx(30, abs=0.1)
    assert (world.units.state(B).result, world.units.state(B).active_state) == ("timeout", ActiveState.FAILED)


async def test_exit_is_seen_and_the_gpu_frees_late() -> None:
    world = two_models()
    world.gpus.lag = 3.0
    world.serve_at_once("qwen")
    gone = asyncio.Event()
    assert world.kernel.watch_exit(world.units.state(B).main_pid, gone.set) is not None
    used = world.gpus.used()
    world.models["qwen"].crash(137, "torch.OutOfMemoryError: CUDA out of memory.")
    await asyncio.wait_for(gone.wait(), 1)
    assert world.gpus.used() == used
    assert (await world.journal.tail(B, lines=5))[-1].endswith("CUDA out of memory.")
    await world.clock.advance(3)
    assert world.gpus.used() < used


async def test_restarts_until_the_start_limit() -> None:
    world = FakeWorld()
    world.units.add("x.service", Behaviour(exit_on_start=1, restart=True, start_limit=3))
    assert await (await world.units.start("x.service")).wait(5) is JobResult.FAILED
    await world.clock.advance(5)
    state = world.units.state("x.service")
    # As systemd does it: the result is that of the last crash.
    assert (state.result, state.restarts, state.active_state) == ("exit-code", 2, ActiveState.FAILED)
    await world.units.reset_failed("x.service")
    assert world.units.state("x.service").active_state is ActiveState.INACTIVE


async def test_a_lost_bus_ends_the_wait() -> None:
    world = two_models()
    job = await world.units.start(B)
    asyncio.get_running_loop().call_later(0.001, world.units.drop_bus)
    assert await job.wait(5) is JobResult.LOST
    with pytest.raises(BusError):
        await world.units.show(B)
    world.units.restore_bus()
    assert (await world.units.show("none.service")).exists is False


async def test_an_orphan_keeps_the_cgroup_and_the_memory() -> None:
    world = two_models()
    world.models["qwen"].behaviour.orphan = True
    world.serve_at_once("qwen")
    await (await world.units.stop(B)).wait(5)
    group = world.units.state(B).control_group
    assert len(world.kernel.cgroup_pids(group)) == 1
    assert world.holders() == [B]
    await world.units.kill(B, 9)
    assert not world.kernel.cgroup_pids(group)
    assert world.holders() == []


async def test_ollama_unloads() -> None:
    world = FakeWorld()
    ollama = world.add_ollama()
    ollama.load("llama3", 5 * 1024**3)
    await world.prober.http(
        f"{ollama.url}/api/generate", timeout=1, method="POST", json={"model": "llama3", "keep_alive": 0}
    )
    await world.clock.advance(1)
    assert ollama.loaded == {}
    assert world.gpus.holders == {}


async def test_killing_the_cgroup_ends_the_unit_unless_it_is_stuck() -> None:
    world = two_models()
    world.serve_at_once("qwen")
    group = world.units.state(B).control_group
    world.models["qwen"].behaviour.unkillable = True
    assert world.kernel.kill_cgroup(group) == 2
    await world.clock.settle()
    assert world.units.active() == [B]
    world.models["qwen"].behaviour.unkillable = False
    world.kernel.kill_cgroup(group)
    await world.clock.settle()
    assert world.units.state(B).result == "signal"
    assert world.serving() == []
