"""The GPUs by NVML, read in a thread of its own: a driver that hangs costs an answer, not the loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from agentd.adapters.gpu_nvml import Mode, Nvml
from agentd.gpu import GpuFault, GpuSnapshot

READ_TIMEOUT = 5.0


class _Request(NamedTuple):
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[GpuSnapshot]
    details: bool
    since: float
    """The monotonic second of the question."""


class GpuReader:
    """The Gpus port.

    Mode "none" reads nothing. "auto" is "none" as long as the library or the driver is missing. "nvml" says so in
    `error` instead. Who asks while the same is being read shares the answer: at most one question of each kind waits.
    """

    def __init__(
        self, mode: Mode = "auto", *, timeout: float = READ_TIMEOUT, clock: Callable[[], float] = time.time
    ) -> None:
        self._mode = mode
        self._timeout = timeout
        self._clock = clock
        self._nvml = Nvml(mode, clock)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: dict[bool, _Request] = {}
        """By `details`."""

    async def read(self, *, details: bool = False) -> GpuSnapshot:
        if self._mode == "none":
            return GpuSnapshot(observed=self._clock())
        request = self._request(asyncio.get_running_loop(), details)
        # A question behind one that hangs has waited as long as that one.
        since = min(pending.since for pending in self._pending.values())
        limit = max(0.0, since + self._timeout - time.monotonic())
        done, _ = await asyncio.wait({request.answer}, timeout=limit)
        if done:
            return request.answer.result()
        text = f"NVML has not answered for {time.monotonic() - since:.0f} s"
        return GpuSnapshot("nvml", error=text, observed=self._clock(), faults=(GpuFault("hang", text),))

    async def close(self) -> None:
        """Let the thread go; a call that hangs keeps it until the process ends."""
        if self._thread is not None:
            self._requests.put(None)
            self._thread = None

    def _request(self, loop: asyncio.AbstractEventLoop, details: bool) -> _Request:
        """The one that is under way and answers this too, or a new one."""
        self._pending = {k: r for k, r in self._pending.items() if not r.answer.done() and r.loop is loop}
        under_way = self._pending.get(True) or (None if details else self._pending.get(False))
        if under_way is not None:
            return under_way
        if self._thread is None:
            # A daemon thread: a call that never returns must not hold up the end of the process.
            self._thread = threading.Thread(target=self._work, name="nvml", daemon=True)
            self._thread.start()
        request = _Request(loop, loop.create_future(), details, time.monotonic())
        self._pending[details] = request
        self._requests.put(request)
        return request

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            snapshot = self._nvml.read(details=request.details)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                request.loop.call_soon_threadsafe(_deliver, request.answer, snapshot)
        self._nvml.close()


def _deliver(future: asyncio.Future[GpuSnapshot], snapshot: GpuSnapshot) -> None:
    if not future.done():
        future.set_result(snapshot)
