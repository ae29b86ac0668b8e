"""Processes that outlive their model and keep GPU memory: ended when they are certainly ours, named when not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes.kernel import FakeProcess
from fakes.rig import Rig, manager_of, rig, settings

from agentd.core.switch import State
from agentd.errors import AgentdError
from agentd.managers.models.context import SwitchRun
from agentd.managers.models.orphans import end_orphans
from agentd.types import Change, Outcome
from agentd.wire import SwitchRequest

GIB = 1024**3
QWEN = "vllm-qwen.service"


def leave(r: Rig, title: str = "VLLM::EngineCore") -> FakeProcess:
    """qwen's engine, which will slip out of its cgroup when the server ends."""
    unit = r.world.units.units[QWEN]
    unit.behaviour.orphan = True
    engine = r.world.kernel.processes[unit.pids[-1]]

    def died(name: str) -> None:
        if name == QWEN:
            engine.unit, engine.control_group = "", "/stray"

    engine.title = title
    r.world.units.on_death.append(died)
    return engine


def killed(r: Rig, unit: str = QWEN) -> int:
    return r.counters.snapshot().get(("agentd_orphan_killed", (unit,)), 0)


async def dead_with_orphan(r: Rig) -> int:
    """qwen has crashed, systemd calls its unit failed, and a child of it still holds 14G."""
    child = r.world.units.units[QWEN].pids[-1]
    r.world.units.die(QWEN, orphan=True)
    await r.world.clock.advance(2.0)
    await r.manager.ensure()
    assert r.world.gpus.holders
    return child


async def test_what_a_crashed_model_left_behind_is_ended_before_the_next_start() -> None:
    r = await rig()
    child = await dead_with_orphan(r)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert r.world.holders() == ["vllm-dolphin.service"]
    assert child not in r.world.kernel.processes
    assert killed(r) == 1
    (event,) = [e for e in r.events.recent(100) if e.kind == "orphan.killed"]
    assert event.subject == "qwen"
    assert f"vllm (pid {child}) outlived {QWEN}, still held 14G of GPU 0, and was killed" in event.message
    (wait,) = [p for p in change.phases if p.phase == "wait-vram"]
    assert "1 orphaned process killed" in wait.detail


async def test_an_engine_that_left_its_cgroup_is_known_by_pid_start_and_title() -> None:
    r = await rig()
    engine = leave(r)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert engine.pid not in r.world.kernel.processes
    assert killed(r) == 1


DOUBTFUL: dict[str, Callable[[FakeProcess], None]] = {
    "another title": lambda p: setattr(p, "title", "python3 notebook.py"),
    "another start": lambda p: setattr(p, "start", 99),
}


@pytest.mark.parametrize("doubt", DOUBTFUL)
async def test_who_left_the_cgroup_and_is_not_certain_is_named_and_left_alone(doubt: str) -> None:
    r = await rig(vram_timeout=20.0)
    engine = leave(r)
    r.world.units.on_death.append(lambda _: DOUBTFUL[doubt](engine))
    change = await r.switch("dolphin")
    assert engine.pid in r.world.kernel.processes
    assert killed(r) == 0
    assert (change.outcome, r.board.slot("gpu0").state) == (Outcome.WEDGED, State.WEDGED)  # type: ignore[union-attr]
    assert f"(pid {engine.pid}, 14G)" in change.cause


async def test_a_pid_that_was_given_to_somebody_else_is_nobody_to_wait_for() -> None:
    r = await rig()
    kernel, child = r.world.kernel, r.world.units.units[QWEN].pids[-1]

    def died(name: str) -> None:
        if name == QWEN:
            kernel.processes[child] = FakeProcess(child, "player", start=77)
            r.world.gpus.hold(child, GIB)

    r.world.units.on_death.append(died)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert kernel.processes[child].comm == "player"
    assert killed(r) == 0


async def test_a_stranger_is_never_killed() -> None:
    r = await rig(vram_timeout=20.0)
    game = r.world.kernel.spawn("game")
    r.world.units.on_death.append(lambda _: r.world.gpus.hold(game, 12 * GIB))
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.WEDGED
    assert f"held by game (pid {game}, 12G)" in change.cause
    assert game in r.world.kernel.processes


async def test_a_unit_of_the_same_name_in_another_manager_is_a_stranger() -> None:
    r = await rig(resident=None, vram_timeout=20.0)
    pid = r.world.kernel.spawn("vllm", unit=QWEN, control_group=f"/system.slice/{QWEN}")
    r.world.gpus.hold(pid, 12 * GIB)
    change = await r.switch("dolphin")
    assert change.outcome is not Outcome.DONE
    assert pid in r.world.kernel.processes


async def test_a_process_that_survives_sigkill_wedges_the_slot_and_is_named() -> None:
    """Stuck in the driver: nobody but a person can help, and starting anything would only fail."""
    r = await rig(vram_timeout=20.0)
    engine = leave(r)
    r.world.kernel.immune = lambda unit: unit == ""
    change = await r.switch("dolphin")
    assert (change.outcome, change.exit_code) == (Outcome.WEDGED, 7)
    assert "still hold GPU memory, though they were killed" in change.cause
    assert f"(pid {engine.pid}, 14G)" in change.cause
    assert killed(r) == 1, "once, not at every look"
    assert not r.world.serving()


async def test_orphans_that_agentd_itself_left_by_dying_are_ended_by_the_next_one() -> None:
    r = await rig(vram_timeout=20.0)
    r.world.models["dolphin"].load = 50.0
    r.manager.switch(SwitchRequest("dolphin"))
    while r.world.units.state("vllm-dolphin.service").main_pid == 0:
        await r.world.clock.advance(0.1)
    await r.manager.close()
    r.world.units.die("vllm-dolphin.service", orphan=True)
    again = manager_of(r.world, settings())
    await again.manager.start(settings())
    await r.world.clock.advance(60.0)
    assert r.world.serving() == ["qwen"]
    assert r.world.holders() == [QWEN]
    assert not await r.world.store.open_changes()
    (last,) = [c for c in r.world.store.saved.values() if c.target == "dolphin"]
    assert last.outcome is Outcome.ROLLED_BACK


async def test_nobody_is_killed_while_systemd_does_not_answer_or_calls_the_unit_up() -> None:
    r = await rig()
    ctx = r.manager._owners["gpu0"].ctx
    change = Change("s1", "switch", "gpu0", target="dolphin", previous=None, created=0.0, phase="wait-vram")
    run = SwitchRun(change, before=State.IDLE, state=State.WAIT_VRAM, target=ctx.models["dolphin"])
    assert await end_orphans(ctx, run, await r.world.gpus.read()) == 0, "it serves"
    child = await dead_with_orphan(r)
    r.world.units.refuse["show"] = AgentdError("bus-timeout", "no answer")
    assert await end_orphans(ctx, run, await r.world.gpus.read()) == 0
    assert child in r.world.kernel.processes
    r.world.units.refuse.clear()
    assert await end_orphans(ctx, run, await r.world.gpus.read()) == 1
    assert child not in r.world.kernel.processes
