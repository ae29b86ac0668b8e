"""The GPUs' snapshot for readers, refreshed in the background; phases of a switch ask the port themselves."""

from __future__ import annotations

from agentd.engine.world import World
from agentd.gpu import GpuSnapshot
from agentd.ports import Clock, Gpus, Kernel


class GpusManager:
    """Reads at most every `period` seconds, so that a pass woken by signals costs no NVML call."""

    name = "gpus"

    def __init__(self, gpus: Gpus, kernel: Kernel, world: World, clock: Clock, *, period: float = 15.0) -> None:
        self._gpus = gpus
        self._kernel = kernel
        self._world = world
        self._clock = clock
        self._period = period
        self._last = float("-inf")

    def expire(self) -> None:
        """Something moved GPU memory: the next pass reads it again."""
        self._last = float("-inf")

    async def ensure(self) -> None:
        now = self._clock.monotonic()
        if now - self._last < self._period:
            return
        self._last = now
        snapshot = await self._gpus.read()
        self._world.put_gpus(snapshot, self._owners(snapshot))

    def _owners(self, snapshot: GpuSnapshot) -> dict[tuple[int, str], int]:
        """Bytes by unit; what belongs to no unit is "foreign", so that pids stay out of the metrics."""
        found: dict[tuple[int, str], int] = {}
        for process in snapshot.processes:
            key = (process.gpu, self._kernel.unit_of(process.pid) or "foreign")
            found[key] = found.get(key, 0) + process.used
        return found
