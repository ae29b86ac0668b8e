"""What a load shows while a switch waits for it, and what ends one that stands still; in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from fakes.gpus import GIB
from fakes.rig import Rig, rig, settings

from agentd.core.schema import Settings
from agentd.managers.models.fingerprint import fingerprint
from agentd.types import Change, Outcome, UnitState
from agentd.wire import SwitchRequest

UNIT = "vllm-dolphin.service"
LINES = (
    (2.0, "Starting to load model /models/dolphin..."),
    (4.0, "Loading safetensors checkpoint shards:  40% Completed | 2/5 [00:04<00:06]"),
    (10.0, "Model loading took 14.2717 GiB and 8.6 seconds"),
    (11.0, "Using cache directory: /c for vLLM's torch.compile"),
    (20.0, "GPU KV cache size: 25,360 tokens"),
    (25.0, "init engine (profile, create kv cache, warmup model) took 15 seconds"),
)


def config(**model: Any) -> Settings:
    base = settings()
    services = dict(base.services)
    for name in ("qwen", "dolphin"):
        spec = services[name].model
        assert spec is not None
        services[name] = msgspec.structs.replace(
            services[name], model=msgspec.structs.replace(spec, **{"ready_timeout": 600.0, **model})
        )
    return msgspec.structs.replace(base, services=services)


async def loading(load: float, **model: Any) -> Rig:
    """qwen serves; dolphin takes `load` seconds to come up."""
    r = await rig()
    await r.manager.apply(config(**model))
    r.world.models["dolphin"].load = load
    return r


def speak(r: Rig, lines: tuple[tuple[float, str], ...] = LINES) -> None:
    """dolphin says these lines, so many seconds after its start."""

    def started(unit: str, _pid: int) -> None:
        if unit == UNIT:
            loop = asyncio.get_running_loop()
            for after, text in lines:
                loop.call_later(after, say, text)

    def say(text: str) -> None:
        r.world.journal.say(UNIT, text, invocation=r.world.units.state(UNIT).invocation_id)

    r.world.units.on_start.append(started)


async def steps(r: Rig, target: str = "dolphin") -> list[Change]:
    """Every state of the change that somebody who follows it sees."""
    change, _ = r.manager.switch(SwitchRequest(target))
    return [step async for step in r.changes.follow(change.id)]


def details(found: list[Change]) -> list[str]:
    """What WAIT_READY said while it ran."""
    last = [s.phases[-1] for s in found if s.phases]
    return [p.detail for p in last if p.phase == "wait-ready" and p.seconds is None and p.detail]


async def settled(r: Rig) -> None:
    await r.world.clock.advance(1.0)


async def test_phases_are_shown_while_it_loads_and_kept_in_its_history() -> None:
    r = await loading(26.0)
    speak(r)
    found = await steps(r)
    told = details(found)
    assert list(dict.fromkeys(told)) == [
        "starting", "loading weights", "loading weights 40 %", "profiling", "compiling", "capturing graphs",
        "starting server",
    ]  # fmt: skip
    ready = next(p for p in found[-1].phases if p.phase == "wait-ready")
    assert ready.detail.startswith(("answers after 25.9", "answers after 26."))
    assert "(starting 2 s, loading weights 8 s, profiling 1 s, compiling 9 s, capturing graphs 5 s" in ready.detail


async def late(r: Rig, load: float) -> float:
    """Seconds by which a switch notices a server too late that listens `load` seconds after its start."""
    r.world.models["dolphin"].load = load
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.DONE
    assert (await r.switch("qwen")).outcome is Outcome.DONE
    return sum(p.seconds or 0.0 for p in change.phases if p.phase in ("start", "wait-ready")) - load


async def test_a_server_that_says_it_is_being_started_is_asked_often() -> None:
    """After so long a load it would be asked eight times a second, and mostly be seen later than that."""
    r = await loading(26.0)
    speak(r)
    found = [await late(r, 26 + after) for after in (0.0, 0.03, 0.06, 0.09, 0.12)]
    assert max(found) - min(found) < 0.03, found


async def test_the_second_load_knows_how_long_it_takes() -> None:
    r = await loading(26.0)
    speak(r)
    await r.switch("dolphin")
    await settled(r)
    facts = r.manager._facts.of("dolphin")
    assert facts.load_seconds == pytest.approx(26.0, abs=0.5)
    assert facts.phases["compiling"] == pytest.approx(9.0, abs=0.6)
    assert [known.name for known in await r.world.store.facts()] == ["dolphin"]
    await r.switch("qwen")
    told = details(await steps(r))
    assert told[0] == "starting, about 25 s left"
    assert "loading weights 40 %, about 20 s left" in told
    assert told[-1].startswith("starting server, about 1 s left") or told[-1].endswith("usually over by now")


async def test_another_command_line_makes_what_is_known_worthless() -> None:
    r = await loading(26.0)
    speak(r)
    await r.switch("dolphin")
    await settled(r)
    await r.switch("qwen")
    r.world.units.change(UNIT, exec_start=("/usr/bin/vllm", "serve", "/models/dolphin", "--enforce-eager"))
    assert details(await steps(r))[0] == "starting"


async def test_at_most_two_texts_a_second() -> None:
    r = await loading(26.0)
    shards = "Loading safetensors checkpoint shards: {:3d}% Completed | {}/100"
    speak(r, ((1.0, "Starting to load model x"), *((2 + i / 10, shards.format(i, i)) for i in range(100))))
    found = await steps(r)
    assert 20 <= len(details(found)) <= 2 * 26 + 2


async def test_a_short_load_costs_no_look_at_the_journal() -> None:
    r = await loading(1.4)
    followed: list[str] = []
    follow = r.world.journal.follow
    r.world.journal.follow = lambda unit, **k: (followed.append(unit), follow(unit, **k))[1]  # type: ignore
    reads = r.world.kernel.cpu_seconds
    r.world.kernel.cpu_seconds = lambda group: pytest.fail("looked")  # type: ignore
    assert (await r.switch("dolphin")).outcome is Outcome.DONE
    assert followed == []
    r.world.kernel.cpu_seconds = reads  # type: ignore
    r.world.models["qwen"].load = 2.0
    await r.switch("qwen")
    assert followed == ["vllm-qwen.service"]


async def test_without_a_journal_a_load_goes_on_without_phases() -> None:
    r = await loading(26.0)
    r.world.journal.readable = False
    found = await steps(r)
    assert found[-1].outcome is Outcome.DONE
    assert set(details(found)) == {"starting"}
    await settled(r)
    facts = r.manager._facts.of("dolphin")
    assert (facts.phases, facts.load_seconds) == ({}, pytest.approx(26.0, abs=0.5))


async def test_a_watcher_that_fails_fails_nothing() -> None:
    r = await loading(26.0)

    def broken(unit: str, **_: object) -> object:
        raise RuntimeError(unit)

    r.world.journal.follow = broken  # type: ignore
    assert (await r.switch("dolphin")).outcome is Outcome.DONE


async def test_nothing_is_left_behind_when_it_ends() -> None:
    r = await loading(26.0)
    speak(r)
    await r.switch("dolphin")
    await settled(r)
    assert r.world.journal._said == []
    change, _ = r.manager.switch(SwitchRequest("qwen"))
    await r.world.clock.advance(2.0)
    r.manager.cancel(change.id)
    await r.end(change)
    await settled(r)
    assert r.world.journal._said == []


# -- standing still ----------------------------------------------------------------------------------------------------


def hangs(r: Rig, name: str = "dolphin") -> None:
    r.world.models[name].never_ready = True


def group(r: Rig) -> str:
    return r.world.units.state(UNIT).control_group


def works(r: Rig, share: float, seconds: float) -> None:
    """dolphin uses this share of a core, from its start on, for so long."""
    r.world.kernel.cpu = {}

    def started(unit: str, _pid: int) -> None:
        if unit == UNIT:
            asyncio.get_running_loop().call_later(1.0, tick, 1.0)

    def tick(at: float) -> None:
        if at <= seconds and group(r):
            cpu = r.world.kernel.cpu
            cpu[group(r)] = cpu.get(group(r), 5.0) + share
            asyncio.get_running_loop().call_later(1.0, tick, at + 1.0)

    r.world.units.on_start.append(started)


async def test_a_load_that_stands_still_is_ended_and_rolled_back() -> None:
    r = await loading(0.0, stall_timeout=60.0)
    hangs(r)
    works(r, 0.5, 10.0)
    speak(r, ((2.0, "Starting to load model /models/dolphin..."),))
    change = await r.switch("dolphin")
    assert change.outcome is Outcome.ROLLED_BACK
    assert "loading stands still since 60 s in phase 'loading weights'" in change.cause
    assert r.world.serving() == ["qwen"]
    assert r.counters.snapshot()["agentd_load_stalled", ("dolphin",)] == 1
    ready = next(p for p in change.phases if p.phase == "wait-ready")
    assert ready.seconds == pytest.approx(70.0, abs=10.0)


@pytest.mark.parametrize("minutes", [30])
async def test_a_compilation_of_half_an_hour_is_no_stall(minutes: int) -> None:
    # It is silent, and the GPU's memory does not move: CPU time alone says that it works.
    r = await loading(minutes * 60.0, stall_timeout=60.0, ready_timeout=3600.0)
    works(r, 0.9, minutes * 60.0)
    speak(r, ((2.0, "Starting torch.compile"),))
    change = await r.switch("dolphin")
    assert (change.outcome, change.cause) == (Outcome.DONE, "")


async def test_a_line_now_and_then_is_no_stall() -> None:
    r = await loading(300.0, stall_timeout=60.0)
    works(r, 0.002, 300.0)
    speak(r, tuple((float(at), f"still downloading, {at}") for at in range(5, 300, 50)))
    assert (await r.switch("dolphin")).outcome is Outcome.DONE


async def test_gpu_memory_that_fills_is_no_stall() -> None:
    r = await loading(300.0, stall_timeout=60.0)
    works(r, 0.002, 300.0)

    def started(unit: str, pid: int) -> None:
        loop = asyncio.get_running_loop()
        for at in range(0, 300, 50):
            loop.call_later(at, r.world.gpus.hold, pid, GIB + at * 1024**2)

    r.world.units.on_start.append(started)
    assert (await r.switch("dolphin")).outcome is Outcome.DONE


async def test_a_load_that_takes_too_long_is_told_with_its_phase() -> None:
    r = await loading(0.0, ready_timeout=30.0)
    hangs(r)
    speak(r, LINES[:3])
    change = await r.switch("dolphin")
    assert "not finished within 30 s (profiling)" in change.cause


@pytest.mark.parametrize("model", [{"stall_timeout": 0.0}, {"stall_timeout": 60.0}], ids=["no limit", "no CPU figures"])
async def test_no_verdict_where_there_is_no_limit_or_no_measure(model: dict[str, float]) -> None:
    r = await loading(0.0, ready_timeout=400.0, **model)
    hangs(r)
    if not model["stall_timeout"]:
        works(r, 0.5, 10.0)
    change = await r.switch("dolphin")
    assert "not finished within 400 s" in change.cause
    assert not r.counters.snapshot()


async def test_a_way_back_that_stands_still_is_ended_too() -> None:
    r = await loading(0.0, stall_timeout=60.0)
    r.world.models["dolphin"].die_loading = (2.0, 1, "boom")
    hangs(r)
    hangs(r, "qwen")
    r.world.kernel.cpu[r.world.units.state("vllm-qwen.service").control_group] = 9.0
    found = await steps(r)
    change = found[-1]
    assert change.outcome is Outcome.DEGRADED
    assert "starting" in [p.detail for s in found for p in s.phases[-1:] if p.phase == "rollback" and p.seconds is None]
    assert "qwen does not come back: loading stands still since 60 s in phase 'starting'" in change.message


# -- fingerprint -------------------------------------------------------------------------------------------------------


async def test_a_fingerprint_names_what_was_measured() -> None:
    r = await loading(1.0)
    model = r.manager._owners["gpu0"].ctx.models["dolphin"]
    state = UnitState(UNIT, exec_start=("vllm", "serve", "--api-key", "secret"))
    first = fingerprint(model, state)
    assert first == fingerprint(model, UnitState(UNIT, exec_start=state.exec_start, main_pid=7, restarts=3))
    assert first != fingerprint(model, UnitState(UNIT, exec_start=("vllm", "serve", "--api-key", "other")))
    assert first != fingerprint(r.manager._owners["gpu0"].ctx.models["qwen"], state)
    assert "secret" not in first
