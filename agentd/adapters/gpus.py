"""GPU memory and processes by NVML, read in a thread of its own: a driver that hangs costs an answer, not the loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

from agentd.gpu import Gpu, GpuProcess, GpuSnapshot

READ_TIMEOUT = 5.0
RETRY_ABSENT = 60.0
"""Seconds between two looks for a driver that was not there."""

Mode = Literal["auto", "nvml", "none"]
_Request = tuple[asyncio.AbstractEventLoop, "asyncio.Future[GpuSnapshot]"]


class GpuReader:
    """The Gpus port.

    Mode "none" reads nothing. "auto" is "none" as long as the library or the driver is missing. "nvml" says so in
    `error` instead.
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
        self._pending: asyncio.Future[GpuSnapshot] | None = None
        self._since = 0.0

    async def read(self, *, details: bool = False) -> GpuSnapshot:
        del details
        if self._mode == "none":
            return GpuSnapshot(observed=self._clock())
        loop = asyncio.get_running_loop()
        if self._pending is None or self._pending.done() or self._pending.get_loop() is not loop:
            self._ask(loop)
        assert self._pending is not None
        # Kept here: another reader may have asked anew by the time that this one goes on.
        pending, since = self._pending, self._since
        done, _ = await asyncio.wait({pending}, timeout=max(0.0, since + self._timeout - time.monotonic()))
        if done:
            return pending.result()
        waited = time.monotonic() - since
        return GpuSnapshot("nvml", error=f"NVML has not answered for {waited:.0f} s", observed=self._clock())

    async def close(self) -> None:
        """Let the thread go; a call that hangs keeps it until the process ends."""
        if self._thread is not None:
            self._requests.put(None)
            self._thread = None

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._thread is None:
            # A daemon thread: a call that never returns must not hold up the end of the process.
            self._thread = threading.Thread(target=self._work, name="nvml", daemon=True)
            self._thread.start()
        self._pending = loop.create_future()
        self._since = time.monotonic()
        self._requests.put((loop, self._pending))

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            loop, future = request
            snapshot = self._nvml.read()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_deliver, future, snapshot)
        self._nvml.close()


def _deliver(future: asyncio.Future[GpuSnapshot], snapshot: GpuSnapshot) -> None:
    if not future.done():
        future.set_result(snapshot)


class Nvml:
    """The library's blocking calls; used by one thread only."""

    def __init__(self, mode: Mode, clock: Callable[[], float]) -> None:
        self._mode = mode
        self._clock = clock
        self._module: ModuleType | None = None
        self._ready = False
        self._seen = False
        """True once it has worked: from then on a failure is told in every mode."""
        self._absent_until = 0.0

    def read(self) -> GpuSnapshot:
        if not self._ready and time.monotonic() < self._absent_until:
            return self._absent("")
        try:
            nvml = self._start()
            return self._snapshot(nvml)
        except Exception as error:  # the binding raises its own classes, OSError and AttributeError (old driver)
            self.close()
            if not self._seen and self._mode == "auto":
                self._absent_until = time.monotonic() + RETRY_ABSENT
            return self._absent(_reason(error))

    def close(self) -> None:
        if self._ready and self._module is not None:
            self._ready = False
            with contextlib.suppress(Exception):
                self._module.nvmlShutdown()

    def _absent(self, reason: str) -> GpuSnapshot:
        now = self._clock()
        if self._mode == "auto" and not self._seen:
            return GpuSnapshot(observed=now)
        return GpuSnapshot("nvml", error=f"cannot read NVML: {reason}", observed=now)

    def _start(self) -> Any:
        if self._module is None:
            with warnings.catch_warnings():
                # Another distribution of the same module warns on import that it is deprecated.
                warnings.simplefilter("ignore", FutureWarning)
                import pynvml

            self._module = pynvml
        if not self._ready:
            self._module.nvmlInit()
            self._ready = self._seen = True
        return self._module

    def _snapshot(self, nvml: Any) -> GpuSnapshot:
        gpus: list[Gpu] = []
        processes: list[GpuProcess] = []
        problems: list[str] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                gpus.append(_gpu(nvml, index, handle))
                processes += _processes(nvml, index, handle)
            except nvml.NVMLError as error:
                problems.append(f"GPU {index}: {_reason(error)}")
        if problems and not gpus:
            self.close()  # a lost GPU or a replaced driver: begin again with the next read
        return GpuSnapshot("nvml", tuple(gpus), tuple(processes), "; ".join(problems), self._clock())


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    memory = _memory(nvml, handle)
    uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    return Gpu(index, uuid, name, int(memory.total), int(memory.used), int(memory.free))


def _memory(nvml: Any, handle: Any) -> Any:
    """Version 2 tells apart what the driver keeps for itself; older drivers know version 1 only."""
    version = getattr(nvml, "nvmlMemory_v2", None)
    if version is not None:
        with contextlib.suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetMemoryInfo(handle, version=version)
    return nvml.nvmlDeviceGetMemoryInfo(handle)


def _processes(nvml: Any, index: int, handle: Any) -> list[GpuProcess]:
    """Compute and graphics processes; one that is both is listed once."""
    used: dict[int, int] = {}
    for query in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            found = query(handle)
        except nvml.NVMLError as error:
            if query is nvml.nvmlDeviceGetComputeRunningProcesses and not _unsupported(nvml, error):
                raise
            continue
        for process in found:
            used[int(process.pid)] = max(used.get(int(process.pid), 0), int(process.usedGpuMemory or 0))
    return [GpuProcess(pid, index, size) for pid, size in sorted(used.items())]


def _unsupported(nvml: Any, error: Any) -> bool:
    return getattr(error, "value", None) == getattr(nvml, "NVML_ERROR_NOT_SUPPORTED", 3)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "the pynvml module is not installed"
    text = str(error).strip()
    if text[1:2].islower():
        text = text[0].lower() + text[1:]
    return text or type(error).__name__
