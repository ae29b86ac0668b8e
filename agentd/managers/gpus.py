"""The GPUs' snapshot for readers, refreshed in the background; phases of a switch ask the port themselves."""

from __future__ import annotations

from agentd.engine.world import World
from agentd.ports import Clock, Gpus


class GpusManager:
    """Reads at most every `period` seconds, so that a pass woken by signals costs no NVML call."""

    name = "gpus"

    def __init__(self, gpus: Gpus, world: World, clock: Clock, *, period: float = 15.0) -> None:
        self._gpus = gpus
        self._world = world
        self._clock = clock
        self._period = period
        self._last = float("-inf")

    async def ensure(self) -> None:
        now = self._clock.monotonic()
        if now - self._last < self._period:
            return
        self._last = now
        self._world.put_gpus(await self._gpus.read())
