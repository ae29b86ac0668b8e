"""The next model's weights are read while the present one still serves; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fakes.gpus import GIB
from fakes.rig import Rig, rig

from agentd.errors import AgentdError
from agentd.types import Change, Outcome
from agentd.wire import SwitchRequest, UnloadRequest

PATH = "/models/dolphin"


async def warmed(size: int = 4 * GIB, **slot: object) -> Rig:
    r = await rig(**slot)
    r.world.weights.sizes[PATH] = size
    return r


def busy(r: Rig, seconds: float) -> None:
    """qwen has a request in flight for so long."""
    r.world.models["qwen"].running = 1
    asyncio.get_running_loop().call_later(seconds, setattr, r.world.models["qwen"], "running", 0)


def detail(change: Change, phase: str) -> str:
    return next((p.detail for p in change.phases if p.phase == phase), "")


async def test_the_weights_are_read_while_the_present_model_drains() -> None:
    r = await warmed()
    busy(r, 5.0)
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert r.world.weights.cached == {PATH: 4 * GIB}
    assert detail(change, "start").endswith("; 4G of 4G of weights in the page cache")


async def test_it_never_delays_the_switch_and_ends_at_start() -> None:
    r = await warmed()
    took = []
    for rate in (1000 * GIB, GIB // 4):
        r.world.weights.bytes_per_second = rate
        r.world.weights.cached.clear()
        change = await r.switch("dolphin")
        assert change.finished is not None
        took.append(change.finished - change.created)
        part = r.world.weights.cached[PATH]
        await r.switch("qwen")
    assert took[1] == pytest.approx(took[0], abs=0.01)
    assert 0 < part < 2 * GIB
    assert r.world.weights.cached[PATH] == part


@pytest.mark.parametrize(
    ("available", "expected"),
    [(64 * GIB, 4 * GIB), (14 * GIB, 4 * GIB), (10 * GIB, 2 * GIB), (8 * GIB, 0), (GIB, 0)],
)
async def test_it_leaves_the_machine_its_memory(available: int, expected: int) -> None:
    # Half of what is available, and beyond that 8G for a sleeper.
    r = await warmed()
    r.world.kernel.available = available
    busy(r, 8.0)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert r.world.weights.cached.get(PATH, 0) == expected


async def test_it_can_be_switched_off() -> None:
    r = await warmed(warm_cache=False)
    busy(r, 5.0)
    change = await r.switch("dolphin")
    assert r.world.weights.cached == {}
    assert "page cache" not in detail(change, "start")


async def test_a_cancelled_switch_ends_it_at_once() -> None:
    r = await warmed(100 * GIB)
    r.world.kernel.available = 400 * GIB
    busy(r, 9.0)
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(2.0)
    r.manager.cancel(change.id)
    ended = await r.end(change)
    assert ended.outcome is Outcome.CANCELLED
    part = r.world.weights.cached[PATH]
    await r.world.clock.advance(30.0)
    assert r.world.weights.cached[PATH] == part


async def test_a_refused_switch_reads_nothing() -> None:
    r = await warmed()
    r.world.units.remove("vllm-dolphin.service")
    assert (await r.switch("dolphin")).outcome is Outcome.REFUSED
    assert r.world.weights.cached == {}


@pytest.mark.parametrize("error", [AgentdError("file-stuck", "cannot read"), RuntimeError("a bug")])
async def test_its_failure_is_nobodys(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    r = await warmed()

    async def fails(path: str, limit: int, told: Callable[[int, int], None]) -> int:
        told(1, 2)
        raise error

    monkeypatch.setattr(r.world.weights, "warm", fails)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE


async def test_the_next_switch_reads_again_and_tells_of_itself_alone() -> None:
    r = await warmed()
    busy(r, 5.0)
    await r.switch("dolphin")
    back = await r.switch("qwen")
    assert "page cache" not in detail(back, "start")
    r.world.weights.cached.clear()
    busy(r, 5.0)
    assert "4G of 4G" in detail(await r.switch("dolphin"), "start")


async def test_an_unload_reads_nothing() -> None:
    r = await warmed()
    change, _ = r.manager.unload(UnloadRequest("gpu0"))
    await r.end(change)
    assert r.world.weights.cached == {}
