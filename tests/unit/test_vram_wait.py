"""How much GPU memory a switch asks for, before and after it stops anything; who is named when it does not come."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from fakes.rig import Rig, manager_of, rig, settings
from fakes.world import FakeWorld
from msgspec.structs import replace

from agentd.core.schema import Settings, Slot
from agentd.core.switch import Signal, State
from agentd.gpu import GpuSnapshot
from agentd.managers.models.context import SwitchRun
from agentd.managers.models.vram import wait_vram
from agentd.types import Change, Outcome
from agentd.wire import SwitchRequest

GIB = 1024**3
UNIT = "vllm-dolphin.service"
ARGV = ("/home/u/.local/bin/vllm", "serve", "/models/dolphin", "--gpu-memory-utilization", "0.80")


async def asking(*argv: str, resident: str | None = "qwen", **slot: object) -> Rig:
    """A rig whose dolphin is started by this command line."""
    r = await rig(resident=resident, **slot)
    r.world.units.change(UNIT, exec_start=argv)
    return r


def phase(change: Change, name: str) -> str:
    return next(p.detail for p in reversed(change.phases) if p.phase == name)


async def plan(r: Rig) -> str:
    found = await r.manager.plan(SwitchRequest("dolphin"))
    return next(item.detail for item in found.checks if item.check == "vram")


async def test_the_share_of_the_command_line_is_what_is_needed() -> None:
    r = await asking(*ARGV)
    assert await plan(r) == "GPU 0: dolphin needs 19.2G (0.80 of 24G, as its unit says), 23.8G of 24G can be had"


async def test_a_stranger_leaves_too_little_for_it_and_the_way_out_is_told() -> None:
    r = await asking(*ARGV)
    game = r.world.kernel.spawn("game")
    r.world.gpus.hold(game, 6 * GIB)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert f"17.8G of 24G can be had; held by others: game (pid {game}, 6G)" in change.cause
    assert "end these or lower its utilization to 0.71" in change.cause
    assert r.world.serving() == ["qwen"]


async def test_what_is_a_near_thing_is_tried_and_told() -> None:
    r = await asking(*ARGV)
    r.world.gpus.hold(r.world.kernel.spawn("desktop"), int(4.5 * GIB))
    assert "that leaves less than the margin of 512M" in await plan(r)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE


def with_model(config: Settings, name: str, **values: object) -> Settings:
    """The same configuration with other settings of one model."""
    service = config.services[name]
    assert service.model is not None
    changed = replace(service, model=replace(service.model, **values))
    return replace(config, services={**config.services, name: changed})


async def test_nothing_known_is_said_so_and_what_it_then_holds_is_learned() -> None:
    r = await rig()
    await r.manager.apply(with_model(settings(), "dolphin", vram=0))
    assert await plan(r) == "GPU 0: what dolphin needs is not known; 23.8G can be had"
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert (await r.switch("qwen")).outcome is Outcome.DONE
    assert await plan(r) == "GPU 0: dolphin needs 14G (as it held last time), 23.8G of 24G can be had"
    r.world.units.change(UNIT, exec_start=("/srv/start", "--smaller"))
    assert "is not known" in await plan(r), "learned under another command line"


async def test_memory_is_waited_for_until_the_share_is_free_not_only_what_is_configured() -> None:
    r = await asking(*ARGV)
    r.world.gpus.lag = 8.0
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    wait = next(p for p in change.phases if p.phase == "wait-vram")
    assert wait.seconds is not None
    assert wait.seconds >= 8.0


async def test_memory_that_keeps_moving_is_not_free() -> None:
    r = await rig(vram_timeout=12.0)
    job = r.world.kernel.spawn("job")
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    for step in range(40):
        r.world.gpus.hold(job, (1 + step % 2) * GIB)
        await r.world.clock.advance(0.5)
    last = await r.end(change)
    assert last.outcome is Outcome.ROLLED_BACK
    assert "free GPU memory kept changing for 12 s; held by job" in last.cause


async def test_a_move_of_less_than_64_mib_counts_as_still() -> None:
    r = await rig()
    job = r.world.kernel.spawn("job")
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    for step in range(20):
        r.world.gpus.hold(job, GIB + (step % 2) * 32 * 1024**2)
        await r.world.clock.advance(0.2)
    assert (await r.end(change)).outcome is Outcome.DONE


async def test_one_gpu_that_moves_while_another_moves_the_other_way_is_not_still() -> None:
    r = await rig(gpus=(0, 1), vram_timeout=12.0)
    r.world.gpus.count = 2
    first, second = r.world.kernel.spawn("job"), r.world.kernel.spawn("job")
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    for step in range(40):
        r.world.gpus.hold(first, (1 + step % 2) * GIB, 0)
        r.world.gpus.hold(second, (2 - step % 2) * GIB, 1)
        await r.world.clock.advance(0.5)
    assert "kept changing" in (await r.end(change)).cause


async def test_each_gpu_of_the_slot_needs_it_and_no_other_is_looked_at() -> None:
    r = await asking(*ARGV, gpus=(0, 1))
    r.world.gpus.count = 3
    r.world.gpus.hold(r.world.kernel.spawn("elsewhere"), 20 * GIB, 2)
    assert (await plan(r)).count("19.2G") == 2
    r.world.gpus.hold(r.world.kernel.spawn("game"), 10 * GIB, 1)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert "game" in change.cause
    assert "elsewhere" not in change.cause


async def test_a_model_of_another_slot_is_called_by_its_name() -> None:
    world = FakeWorld()
    for name, port in (("qwen", 8001), ("dolphin", 8002), ("coder", 8003)):
        world.add_model(name, port, vram=14 * GIB, load=4.0)
        await world.files.apply({f"/models/{name}": "weights"})
    config = with_model(settings(), "qwen", slot="big", served_name="coder")
    coder = replace(config.services["qwen"], unit="vllm-coder.service", url="http://127.0.0.1:8003")
    services = {**settings().services, "coder": coder}
    both = replace(settings(), services=services, slots={**config.slots, "big": Slot(gpus=(1,))})
    world.serve_at_once("coder")
    r = manager_of(world, both)
    await r.manager.start(both)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert "held by others: coder of slot big (vllm-coder.service, pid " in change.cause


async def test_memory_that_cannot_be_read_at_the_deadline_says_so() -> None:
    r = await rig(vram_timeout=5.0)
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while r.board.slot("gpu0").state != "wait-vram":  # type: ignore[union-attr]
        await r.world.clock.advance(0.01)
    r.world.gpus.error = "NVML does not answer"
    last = await r.end(change)
    assert "GPU memory cannot be read: NVML does not answer" in last.cause


@pytest.mark.parametrize("utilization", [0.9, 0.5])
async def test_the_configuration_beats_the_command_line(utilization: float) -> None:
    r = await asking(*ARGV)
    await r.manager.apply(with_model(settings(), "dolphin", utilization=utilization, vram=0))
    assert f"({utilization:.2f} of 24G, as configured)" in await plan(r)


async def test_the_same_model_started_by_hand_meanwhile_is_not_started_twice() -> None:
    r = await rig()
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while r.board.slot("gpu0").state != "wait-vram":  # type: ignore[union-attr]
        await r.world.clock.advance(0.01)
    await r.world.units.start(UNIT)
    last = await r.end(change)
    assert last.outcome is Outcome.DONE
    assert r.world.units.units[UNIT].starts == 1
    assert r.world.serving() == ["dolphin"]


async def test_a_failed_start_names_who_else_holds_the_gpu_and_how_it_would_leave() -> None:
    config = settings()
    ignored = replace(config.services["ollama"], runtime=replace(config.services["ollama"].runtime, policy="ignore"))
    config = replace(config, services={**config.services, "ollama": ignored})
    r = await rig()
    await r.manager.apply(config)
    r.world.add_ollama().load("llama3", 5 * GIB)
    r.world.models["dolphin"].die_loading = (
        1.0,
        1,
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB.",
    )
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert (
        'or free the GPU of ollama.service (5G, or set the policy of ollama to "evict" or "cpu_only")' in change.cause
    )


async def test_a_model_that_dies_of_memory_while_it_serves_is_understood_and_counted() -> None:
    r = await rig()
    r.world.models["qwen"].crash(1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB.")
    await r.world.clock.advance(1.0)
    await r.manager.ensure()
    slot = r.board.slot("gpu0")
    assert slot is not None
    assert "CUDA out of memory (1G more wanted); lower --gpu-memory-utilization" in slot.cause
    assert r.counters.snapshot()["agentd_model_out_of_memory", ("qwen", "cuda")] == 1


@pytest.mark.parametrize(
    ("limit", "kind", "advice"),
    [
        (8 * GIB, "cgroup", f"it reached its limit of main memory (MemoryMax=8G); raise MemoryMax= of {UNIT}"),
        (None, "host", "because memory ran out (OOM); with host_memory in its configuration a switch is refused"),
    ],
)  # fmt: skip
async def test_main_memory_that_runs_out_is_told_apart(limit: int | None, kind: str, advice: str) -> None:
    r = await rig()
    r.world.units.change(UNIT, memory_max=limit)
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while r.board.slot("gpu0").state != "wait-ready":  # type: ignore[union-attr]
        await r.world.clock.advance(0.01)
    r.world.units.die(UNIT, code=2, status=9, result="oom-kill")
    last = await r.end(change)
    assert last.outcome is Outcome.ROLLED_BACK
    assert advice in last.cause
    assert r.counters.snapshot()["agentd_model_out_of_memory", ("dolphin", kind)] == 1


async def test_a_share_that_the_driver_leaves_no_room_for_is_refused_before_anything_is_stopped() -> None:
    r = await asking("vllm", "serve", "/models/dolphin", "--gpu-memory-utilization", "1.0")
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.REFUSED
    assert "lower its utilization to 0.96" in change.cause
    assert r.world.serving() == ["qwen"]


async def test_memory_that_the_driver_lists_for_nobody_refuses_nothing() -> None:
    """In a container NVML names no process: what is used there may be the resident model's."""
    r = await asking(*ARGV)
    r.world.gpus.holders.clear()
    r.world.gpus.base = 15 * GIB
    assert (await r.manager.plan(SwitchRequest("dolphin"))).ok


async def test_what_a_sleeper_keeps_is_no_reason_to_wait_for_a_margin() -> None:
    """Enough is free for the start, and more will never be: the sleeper stays."""
    r = await asking(*ARGV, resident=None)
    r.world.serve_at_once("qwen")
    engine = r.world.units.units["vllm-qwen.service"].pids[-1]
    r.world.gpus.hold(engine, int(4.4 * GIB))
    ctx = r.manager._owners["gpu0"].ctx
    await ctx.sleepers.note("qwen", 1)
    now = r.world.clock.time()
    run = SwitchRun(Change("s1", "switch", "gpu0", "dolphin", None, now, "wait-vram"), State.IDLE, State.WAIT_VRAM)
    waiting = asyncio.ensure_future(wait_vram(ctx, run, ctx.models["dolphin"], frozenset()))
    await r.world.clock.advance(3.0)
    assert waiting.done()
    assert waiting.result().signal is Signal.PASS


async def test_a_gpu_that_goes_missing_during_the_wait_is_named() -> None:
    r = await rig(gpus=(0, 1), vram_timeout=5.0)
    r.world.gpus.count = 2
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    while r.board.slot("gpu0").state != "wait-vram":  # type: ignore[union-attr]
        await r.world.clock.advance(0.01)
    r.world.gpus.count = 1
    assert "GPU 1 is not there" in (await r.end(change)).cause


async def test_trouble_of_another_gpu_is_none_of_this_slot() -> None:
    r = await rig()
    read = r.world.gpus.read

    async def with_a_lost_one(*, details: bool = False) -> GpuSnapshot:
        return dataclasses.replace(await read(details=details), error="GPU 1 is lost")

    r.world.gpus.read = with_a_lost_one  # type: ignore[method-assign]
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
