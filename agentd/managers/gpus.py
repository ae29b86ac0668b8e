"""The GPUs' snapshot for readers, refreshed in the background; phases of a switch ask the port themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from agentd.core.gpu_findings import GpuView, gpu_findings
from agentd.core.schema import Settings
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.findings import Finding
from agentd.gpu import Gpu, GpuDetails, GpuHolder, GpuSnapshot
from agentd.ports import Clock, Gpus, Kernel

FOREIGN = "foreign"
"""Owner of what belongs to no unit, or to a scope (a container, a program of the desktop): a scope's name has an id or
a pid in it, and those stay out of the metrics."""
UNLISTED = "unlisted"
"""Owner of what is in use and held by no listed process: the driver's own, a process of a container, one just ended."""

RETRY = 5.0
"""Seconds between two looks while nothing can be read."""


class GpusManager:
    """Reads details at most every `period` seconds, so that a pass woken by signals costs no NVML call; memory also
    when it was said to have moved."""

    name = "gpus"

    def __init__(
        self,
        gpus: Gpus,
        kernel: Kernel,
        world: World,
        clock: Clock,
        events: EventLog,
        counters: Counters,
        settings: Callable[[], Settings],
        *,
        period: float = 15.0,
    ) -> None:
        self._gpus = gpus
        self._kernel = kernel
        self._world = world
        self._clock = clock
        self._events = events
        self._counters = counters
        self._settings = settings
        self._period = period
        self._detailed = float("-inf")
        self._expired = False
        self._there = asyncio.Event()
        self._failing: float | None = None
        self._homes: dict[str, int] = {}
        self._links: dict[tuple[str, int], str] = {}
        self._lost: dict[str, str] = {}
        """UUID of a GPU that is lost -> its subject."""
        self._xid = 0

    def expire(self) -> None:
        """Something moved GPU memory: the next pass reads it again."""
        self._expired = True

    async def ensure(self) -> None:
        now = self._clock.monotonic()
        due = now >= self._due()
        if not due and not self._expired:
            return
        self._expired = False
        if due:
            self._detailed = now
        snapshot = await self._gpus.read(details=due)
        self._note(snapshot)
        shown = replace(snapshot, gpus=self._with_details(snapshot), holders=self._holders(snapshot))
        self._world.put_gpus(shown, _owners(shown))
        if snapshot.source != "none":
            self._there.set()

    async def run(self) -> None:
        """Look every `period` seconds, from when there is a GPU until cancelled: a pass may be a minute away."""
        await self._there.wait()
        while True:
            await self._clock.sleep(max(0.0, self._due() - self._clock.monotonic()))
            await self.ensure()

    def _due(self) -> float:
        """The monotonic second from which on details are read."""
        return self._detailed + (self._period if self._failing is None else min(self._period, RETRY))

    def findings(self) -> tuple[Finding, ...]:
        view = GpuView(self._world.gpus, self._clock.time(), self._failing, self._homes, self._links)
        return gpu_findings(view, self._settings().slots)

    def _note(self, snapshot: GpuSnapshot) -> None:
        """What later looks must still know, and what is news."""
        for gpu in snapshot.gpus:
            self._homes.setdefault(gpu.uuid, gpu.index)
            for link in gpu.details.nvlinks if gpu.details is not None else ():
                if link.active:
                    self._links[gpu.uuid, link.link] = link.peer
        self._tell_readable(snapshot)
        self._tell_lost(snapshot)
        for xid in snapshot.xids:
            if xid.seq > self._xid:
                self._xid = xid.seq
                self._counters.add("agentd_gpu_xid", str(xid.gpu), str(xid.code))
                text = f"the driver reported Xid {xid.code} for GPU {xid.gpu}"
                self._events.emit("gpu.xid", f"gpu:{xid.gpu}", text, gpu=xid.gpu, code=xid.code)

    def _tell_readable(self, snapshot: GpuSnapshot) -> None:
        failed = bool(snapshot.error) and not snapshot.gpus
        if failed and self._failing is None:
            self._failing = self._clock.time()
            self._events.emit("gpu.unreadable", "host", snapshot.error)
        elif not failed and self._failing is not None:
            self._failing = None
            self._events.emit("gpu.readable", "host", "the GPUs can be read again")

    def _tell_lost(self, snapshot: GpuSnapshot) -> None:
        for fault in snapshot.faults:
            if fault.kind == "lost" and fault.uuid and fault.uuid not in self._lost:
                subject = f"gpu:{fault.gpu if fault.gpu >= 0 else self._homes.get(fault.uuid, fault.uuid)}"
                self._lost[fault.uuid] = subject
                self._events.emit("gpu.lost", subject, fault.text, uuid=fault.uuid)
        for gpu in snapshot.gpus:
            if self._lost.pop(gpu.uuid, None) is not None:
                text = f"GPU {gpu.index} ({gpu.uuid}) is back"
                self._events.emit("gpu.back", f"gpu:{gpu.index}", text, uuid=gpu.uuid)

    def _with_details(self, snapshot: GpuSnapshot) -> tuple[Gpu, ...]:
        """A look at memory alone keeps what the last one told besides."""
        before: dict[str, GpuDetails | None] = {gpu.uuid: gpu.details for gpu in self._world.gpus.gpus}
        return tuple(
            gpu if gpu.details is not None else replace(gpu, details=before.get(gpu.uuid)) for gpu in snapshot.gpus
        )

    def _holders(self, snapshot: GpuSnapshot) -> tuple[GpuHolder, ...]:
        ours = {service.unit for service in self._settings().services.values()}
        found = []
        for process in snapshot.processes:
            unit = self._kernel.unit_of(process.pid)
            program = self._kernel.comm(process.pid)
            found.append(GpuHolder(process.gpu, process.pid, unit, program, process.used, unit not in ours))
        return tuple(found)


def _owners(snapshot: GpuSnapshot) -> dict[tuple[int, str], int]:
    """Bytes by (GPU, owner)."""
    found: dict[tuple[int, str], int] = {}
    for holder in snapshot.holders:
        key = (holder.gpu, FOREIGN if holder.unit.endswith(".scope") else holder.unit or FOREIGN)
        found[key] = found.get(key, 0) + holder.used
    for gpu in snapshot.gpus:
        rest = gpu.used - sum(p.used for p in snapshot.processes if p.gpu == gpu.index)
        if rest > 0:
            found[gpu.index, UNLISTED] = rest
    return found
