"""A slot of two GPUs of which one is gone: its models are configured for the other one, loudly, and back again."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest
from fakes import FakeGpus, FakeStore, FakeWorld
from msgspec.structs import replace
from unit.test_dropins_manager import rig as dropins_rig

from agentd.core.dropin import Purpose, path_of
from agentd.core.gpu_fallback import fitted, in_fallback, missing_gpus
from agentd.core.layers import Fragment, merge
from agentd.core.schema import Fallback, Model, Service, Settings, Slot
from agentd.core.settings import check
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.gpu import GpuFault, GpuSnapshot
from agentd.managers.gpu_fallback import FallbackManager

GIB = 1024**3
UNIT = "vllm-qwen.service"


def settings(fallback_gpus: tuple[int, ...] = (0,), **fallback: object) -> Settings:
    model = Model(
        slot="pair",
        served_name="qwen",
        utilization=0.9,
        tensor_parallel=2,
        fallback=Fallback(**fallback),  # type: ignore[arg-type]
    )
    qwen = Service(unit=UNIT, role="model", url="http://127.0.0.1:8001", model=model)
    return Settings(slots={"pair": Slot(gpus=(0, 1), fallback_gpus=fallback_gpus)}, services={"qwen": qwen})


def model_of(found: Settings) -> Model:
    model = found.services["qwen"].model
    assert model is not None
    return model


def test_what_is_configured_for_it_is_in_force() -> None:
    whole = settings(utilization=0.95, max_model_len=4096)
    assert fitted(whole, frozenset()) == (whole, ())
    found, [fallen] = fitted(whole, frozenset({1}))
    assert found.slots["pair"].gpus == (0,)
    assert in_fallback(found.slots["pair"])
    model = model_of(found)
    assert (model.tensor_parallel, model.utilization, model.max_model_len) == (1, 0.95, 4096)
    assert str(fallen).startswith("GPU 1 is missing: models of slot pair start on GPU 0 alone")
    assert not in_fallback(whole.slots["pair"])


def test_what_is_not_said_stays() -> None:
    model = model_of(fitted(settings(), frozenset({1}))[0])
    assert (model.tensor_parallel, model.utilization, model.max_model_len) == (1, 0.9, 0)


@pytest.mark.parametrize(("fallback", "missing"), [((), {1}), ((0,), {0}), ((0,), {0, 1}), ((0,), {7})])
def test_without_a_fallback_that_is_there_nothing_changes(fallback: tuple[int, ...], missing: set[int]) -> None:
    whole = settings(fallback)
    assert fitted(whole, frozenset(missing)) == (whole, ())


async def test_only_what_is_certain_counts_as_missing() -> None:
    gpus = FakeGpus(count=2)
    assert missing_gpus(await gpus.read(), (0, 1)) == frozenset()
    gpus.lost = {1}
    assert missing_gpus(await gpus.read(), (0, 1)) == frozenset({1})
    gpus.lost, gpus.count = set(), 1
    assert missing_gpus(await gpus.read(), (0, 1)) == frozenset({1})
    gpus.error = "NVML hangs"
    assert missing_gpus(await gpus.read(), (0, 1)) is None
    assert missing_gpus(GpuSnapshot(), (0, 1)) is None
    gpus.error = ""
    snapshot = await gpus.read()
    slow = GpuSnapshot("nvml", snapshot.gpus, faults=(GpuFault("hang", "no answer", 1),))
    assert missing_gpus(slow, (0, 1)) is None, "it may answer the next time"


@pytest.mark.parametrize("wrong", [[0, 1], [2], [1, 2]])
def test_a_fallback_is_fewer_of_the_same(wrong: list[int]) -> None:
    data = {"slots": {"pair": {"gpus": [0, 1], "fallback_gpus": wrong}}}
    [problem] = check(merge([Fragment("x.toml", data)]).data, {})[1]
    assert "slots.pair.fallback_gpus: are not fewer of the slot's GPUs" in str(problem)


def test_no_more_gpus_than_there_are() -> None:
    model = {"slot": "pair", "served_name": "q", "tensor_parallel": 3, "fallback": {"tensor_parallel": 2}}
    service = {"role": "model", "unit": "q.service", "url": "http://127.0.0.1:8001", "model": model}
    slot = {"gpus": [0, 1], "fallback_gpus": [1]}
    data = {"slots": {"pair": slot}, "services": {"q": service}}
    told = [str(problem) for problem in check(merge([Fragment("x.toml", data)]).data, {})[1]]
    assert [line.partition("services.q.model.")[2] for line in told] == [
        "tensor_parallel: is more than the GPUs of its slot: its gpus are 2 (got 3)",
        "fallback.tensor_parallel: is more than the GPUs of its slot: its fallback_gpus are 1 (got 2)",
    ]
    model.update(tensor_parallel=2, fallback={"tensor_parallel": 1})
    assert check(merge([Fragment("x.toml", data)]).data, {})[1] == []


@dataclass
class Rig:
    gpus: FakeGpus
    board: World
    events: EventLog
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    config: Settings = field(default_factory=settings)
    applied: list[Settings] = field(default_factory=list)
    failing: str = ""
    """What could not be applied."""

    def manager(self) -> FallbackManager:
        return FallbackManager(self.gpus, self.board, self.events, self.lock, lambda: self.config, self._apply)

    async def _apply(self, found: Settings) -> str:
        self.applied.append(found)
        return self.failing

    async def look(self) -> None:
        self.board.put_gpus(await self.gpus.read(), {})

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.recent(10)]


def a_rig() -> Rig:
    world = FakeWorld()
    moments = itertools.count(1.0)
    gpus = FakeGpus(count=2, clock=lambda: next(moments))
    return Rig(gpus, World(world.clock), EventLog(FakeStore(), world.clock))


async def test_a_gpu_that_goes_and_comes_back() -> None:
    rig = a_rig()
    manager = rig.manager()
    assert await manager.fit(rig.config) == rig.config
    await rig.look()
    await manager.ensure()
    assert (rig.applied, rig.kinds(), manager.findings()) == ([], [], ())

    rig.gpus.lost = {1}
    await rig.look()
    await manager.ensure()
    await manager.ensure()
    assert [model_of(found).tensor_parallel for found in rig.applied] == [1]
    assert rig.kinds() == ["slot.fallback"]
    [finding] = manager.findings()
    assert "GPU 1 is missing" in finding.cause

    rig.gpus.error = "NVML hangs"
    await rig.look()
    await manager.ensure()
    assert len(rig.applied) == 1, "unknown is not back"

    rig.gpus.error, rig.gpus.lost = "", set()
    await rig.look()
    await manager.ensure()
    assert rig.applied[-1] == rig.config
    assert rig.kinds() == ["slot.fallback", "slot.whole"]
    assert manager.findings() == ()


async def seen(rig: Rig, manager: FallbackManager, *lost: int) -> list[str]:
    rig.gpus.lost = set(lost)
    await rig.look()
    await manager.ensure()
    return rig.kinds()


async def test_a_slot_is_whole_only_when_none_of_its_gpus_is_missing() -> None:
    rig = a_rig()
    rig.gpus.count = 3
    rig.config = replace(settings(), slots={"pair": Slot(gpus=(0, 1), fallback_gpus=(0,))})
    manager = rig.manager()
    told = ["slot.fallback"]
    assert await seen(rig, manager, 1) == told
    told += ["slot.no-fallback"]
    assert await seen(rig, manager, 0, 1) == told
    assert rig.events.recent(1)[0].message == (
        "GPUs 0 and 1 are missing, also for the fallback of slot pair: its models cannot start"
    )
    assert await seen(rig, manager, 0) == told, "told once"
    rig.gpus.error = "NVML hangs"
    assert await seen(rig, manager) == told, "unknown is not back"
    rig.gpus.error = ""
    assert await seen(rig, manager) == [*told, "slot.whole"]
    assert await seen(rig, manager, 0) == [*told, "slot.whole", "slot.no-fallback"]
    assert await seen(rig, manager, 1) == [*told, "slot.whole", "slot.no-fallback", "slot.fallback"]


@pytest.mark.parametrize("without", [settings(()), Settings()])
async def test_a_fallback_that_is_configured_away_makes_no_slot_whole(without: Settings) -> None:
    rig = a_rig()
    manager = rig.manager()
    assert await seen(rig, manager, 1) == ["slot.fallback"]
    assert await manager.fit(without) == without
    assert rig.kinds() == ["slot.fallback"]
    assert manager.findings() == ()


async def test_what_could_not_be_applied_is_told_and_tried_again() -> None:
    rig = a_rig()
    manager = rig.manager()
    rig.gpus.lost, rig.failing = {1}, "drop-ins: the disk is full"
    await rig.look()
    with pytest.raises(AgentdError, match="applied in part: drop-ins: the disk is full"):
        await manager.ensure()
    rig.failing = ""
    await rig.look()
    await manager.ensure()
    await rig.look()
    await manager.ensure()
    assert [found.slots["pair"].gpus for found in rig.applied] == [(0,), (0,)]
    assert rig.kinds() == ["slot.fallback"]


async def test_a_start_and_a_reload_fit_at_once() -> None:
    rig = a_rig()
    rig.gpus.lost = {1}
    manager = rig.manager()
    assert (await manager.fit(rig.config)).slots["pair"].gpus == (0,)
    await rig.look()
    await manager.ensure()
    assert rig.applied == [], "it is in force already"
    without = settings(())
    assert await manager.fit(without) == without
    assert manager.findings() == ()


async def test_an_older_look_decides_nothing() -> None:
    rig = a_rig()
    manager = rig.manager()
    await rig.look()
    rig.gpus.lost = {1}
    await manager.fit(rig.config)
    await manager.ensure()
    assert (rig.applied, rig.kinds()) == ([], ["slot.fallback"]), "what is shown was read before"


async def test_a_machine_without_the_setting_is_not_asked() -> None:
    rig = a_rig()
    rig.config = settings(())
    manager = rig.manager()
    await manager.fit(rig.config)
    await manager.ensure()
    assert rig.gpus.reads == 0


async def test_a_reload_under_way_is_left_alone() -> None:
    rig = a_rig()
    rig.gpus.lost = {1}
    await rig.look()
    manager = rig.manager()
    async with rig.lock:
        await manager.ensure()
    assert rig.applied == []
    await manager.ensure()
    assert len(rig.applied) == 1


async def test_the_drop_in_says_which_gpus() -> None:
    made = dropins_rig()
    made.units.add(UNIT)
    path = f"/home/user/.config/systemd/user/{path_of(UNIT, Purpose.MODEL)}"
    await made.manager.apply(fitted(settings(), frozenset({1}))[0])
    text = made.files.texts[path]
    assert "Environment=AGENTD_TENSOR_PARALLEL=1\n" in text
    assert "Environment=CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0\n" in text
    await made.manager.apply(settings())
    assert "CUDA_VISIBLE_DEVICES" not in made.files.texts[path]
    assert "Environment=AGENTD_TENSOR_PARALLEL=2\n" in made.files.texts[path]
