"""GPU memory that processes hold, released when they exit (or some seconds later)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentd.gpu import Gpu, GpuDetails, GpuDriver, GpuFault, GpuProcess, GpuSnapshot, Xid

GIB = 1024**3


class FakeGpus:
    """`hold`/`release` change the world. `lag`: seconds between a holder's exit and its memory being free.

    `present = False` is a machine without a GPU (source "none"); `error` is an NVML that fails; `stuck` keeps the
    memory for ever after an exit; `lost` are indices that cannot be read; `details` is what a GPU tells beside memory.
    """

    def __init__(self, total: int = 24 * GIB, count: int = 1, *, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.total = total
        self.count = count
        self.present = True
        self.error = ""
        self.lag = 0.0
        self.stuck = False
        self.silent = False
        """The driver lists processes without figures, as under WSL."""
        self.lost: set[int] = set()
        self.fault = "error"
        """The kind of `error`."""
        self.details: dict[int, GpuDetails] = {}
        self.uuids: dict[int, str] = {}
        self.xids: list[Xid] = []
        self.base = 256 * 1024**2
        """Used by nobody that NVML lists (the driver itself)."""
        self.holders: dict[int, tuple[int, int]] = {}
        """Pid -> (gpu, bytes)."""
        self.leftover: dict[int, tuple[int, int]] = {}
        """Memory of exited processes that is not free yet."""
        self.reads = 0
        self.detailed = 0
        """Reads that asked for details, too."""
        self._clock = clock

    def hold(self, pid: int, size: int, gpu: int = 0) -> None:
        self.holders[pid] = (gpu, size)

    def release(self, pid: int) -> None:
        held = self.holders.pop(pid, None)
        if held is None or (self.lag <= 0 and not self.stuck):
            return
        self.leftover[pid] = held
        if not self.stuck:
            asyncio.get_running_loop().call_later(self.lag, self.leftover.pop, pid, None)

    def free_now(self) -> None:
        """The driver finally frees what was stuck."""
        self.stuck = False
        self.leftover.clear()

    def used(self, gpu: int = 0) -> int:
        held = [*self.holders.values(), *self.leftover.values()]
        return self.base + sum(size for index, size in held if index == gpu)

    async def read(self, *, details: bool = False) -> GpuSnapshot:
        self.reads += 1
        self.detailed += details
        await asyncio.sleep(0)
        now = self._clock()
        if not self.present:
            return GpuSnapshot(observed=now, faults=(GpuFault("absent", "driver Not Loaded"),))
        if self.error:
            return GpuSnapshot("nvml", error=self.error, observed=now, faults=(GpuFault(self.fault, self.error),))
        gpus = tuple(self._gpu(index, details) for index in range(self.count) if index not in self.lost)
        held = sorted(self.holders.items())
        seen = [(pid, gpu, size) for pid, (gpu, size) in held if gpu not in self.lost]
        processes = tuple(GpuProcess(pid, gpu, 0 if self.silent else size) for pid, gpu, size in seen)
        faults = tuple(GpuFault("lost", f"GPU {i}: GPU is lost", i, self._uuid(i)) for i in sorted(self.lost))
        problems = "; ".join(found.text for found in faults)
        driver = GpuDriver("580.65.06", "13.0", "13.580.65.06")
        return GpuSnapshot("nvml", gpus, processes, problems, now, driver, tuple(self.xids), faults)

    def _gpu(self, index: int, details: bool) -> Gpu:
        used = self.used(index)
        more = self.details.get(index, GpuDetails()) if details else None
        free = max(0, self.total - used)
        return Gpu(index, self._uuid(index), "Fake GPU", self.total, used, free, f"00000000:0{index + 1}:00.0", more)

    def _uuid(self, index: int) -> str:
        return self.uuids.get(index, f"GPU-fake-{index}")
