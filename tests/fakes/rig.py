"""A machine of fakes with agentd's models manager on it, shared by the tests of the switch."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.core.schema import Model, Service, Settings, Slot
from agentd.engine.changes import ChangeBook
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.managers.models.context import Ports
from agentd.managers.models.manager import ModelsManager
from agentd.types import Change
from agentd.wire import SwitchRequest

from .world import FakeWorld


def settings(**slot: object) -> Settings:
    def model(name: str, port: int) -> Service:
        spec = Model(slot="gpu0", served_name=name, path=f"/models/{name}", vram=14 * 1024**3, ready_timeout=20.0,
                     drain_timeout=10.0)  # fmt: skip
        return Service(unit=f"vllm-{name}.service", role="model", url=f"http://127.0.0.1:{port}", model=spec)

    services = {"qwen": model("qwen", 8001), "dolphin": model("dolphin", 8002)}
    services["ollama"] = Service(unit="ollama.service", role="runtime", url="http://127.0.0.1:11434")
    return Settings(slots={"gpu0": Slot(**({"evict": ("ollama",), **slot}))}, services=services)  # type: ignore[arg-type]


@dataclass
class Rig:
    """A machine, and agentd's models manager on it."""

    world: FakeWorld
    manager: ModelsManager
    changes: ChangeBook
    events: EventLog
    board: World
    counters: Counters

    async def end(self, change: Change) -> Change:
        last = change
        async for step in self.changes.follow(change.id):
            last = step
        await self.world.clock.settle()
        return last

    async def switch(self, target: str, **options: object) -> Change:
        change, _ = self.manager.switch(SwitchRequest(target, **options))  # type: ignore[arg-type]
        return await self.end(change)

    def kinds(self) -> list[str]:
        return [e.kind for e in self.events.recent(100)]


def manager_of(world: FakeWorld, config: Settings) -> Rig:
    ports = Ports(world.units, world.kernel, world.gpus, world.prober, world.journal, world.files, world.clock,
                  world.weights)  # fmt: skip
    events, changes, board = EventLog(world.store, world.clock), ChangeBook(world.store), World(world.clock)
    counters = Counters()
    manager = ModelsManager(ports, world.store, events, changes, board, counters)
    world.units.on_change(manager.unit_changed)
    return Rig(world, manager, changes, events, board, counters)


async def rig(resident: str | None = "qwen", **slot: object) -> Rig:
    world = FakeWorld()
    world.add_model("qwen", 8001, vram=14 * 1024**3, load=4.0)
    world.add_model("dolphin", 8002, vram=14 * 1024**3, load=4.0)
    world.exclusive()
    for name in ("qwen", "dolphin"):
        await world.files.apply({f"/models/{name}": "weights"})
    if resident:
        world.serve_at_once(resident)
    made = manager_of(world, settings(**slot))
    await made.manager.start(settings(**slot))
    return made


def sleep_settings(*names: str, switch: str = "sleep1", **slot: object) -> Settings:
    """A slot whose models may sleep; ports from 8001 on."""
    services = {}
    for port, name in enumerate(names or ("qwen", "dolphin"), 8001):
        spec = Model(slot="gpu0", served_name=name, path=f"/models/{name}", vram=14 * 1024**3, ready_timeout=20.0,
                     drain_timeout=10.0, switch=switch)  # type: ignore[arg-type]  # fmt: skip
        unit, url = f"vllm-{name}.service", f"http://127.0.0.1:{port}"
        services[name] = Service(unit=unit, role="model", url=url, model=spec)
    return Settings(slots={"gpu0": Slot(**slot)}, services=services)  # type: ignore[arg-type]


async def sleepers(*names: str, resident: str | None = "qwen", switch: str = "sleep1", **slot: object) -> Rig:
    """A machine whose models have sleep mode, with the drop-ins for it."""
    world = FakeWorld()
    config = sleep_settings(*names, switch=switch, **slot)
    for name, service in config.services.items():
        world.add_model(name, int(service.url.rpartition(":")[2]), vram=14 * 1024**3, load=4.0, dev_mode=True)
        await world.files.apply({f"/models/{name}": "weights"})
        world.weights.sizes[f"/models/{name}"] = 8 * 1024**3
    world.guarded()
    if resident:
        world.serve_at_once(resident)
    made = manager_of(world, config)
    await made.manager.start(config)
    return made
