"""NVML's blocking calls; used by one thread only."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal, NamedTuple

from agentd.adapters import gpu_details, gpu_memory
from agentd.adapters.gpu_calls import GPU_IS_LOST, OF_THE_DRIVER, VERSION_MISMATCH, code, fault, text
from agentd.adapters.gpu_xids import Xids
from agentd.gpu import Gpu, GpuDriver, GpuFault, GpuProcess, GpuSnapshot

RETRY = 60.0
"""Seconds between two looks for a driver that was not there, and for a GPU that has gone."""

Mode = Literal["auto", "nvml", "none"]


class _Fixed(NamedTuple):
    """What of a GPU changes only while nothing runs on it: read with the details, and once before."""

    bus_id: str
    mig: bool | None


class Nvml:
    """`read` never raises. What fails for one GPU is told of that one; when all are gone, NVML is begun anew."""

    def __init__(self, mode: Mode, clock: Callable[[], float]) -> None:
        self._mode = mode
        self._clock = clock
        self._module: ModuleType | None = None
        self._ready = False
        self._seen = False
        """True once it has worked: from then on a failure is told in every mode."""
        self._not_before = 0.0
        """The monotonic second before which neither an absent driver nor a GPU that has gone is looked for again."""
        self._absence: GpuFault | None = None
        self._driver: GpuDriver | None = None
        self._fixed: dict[str, _Fixed] = {}
        self._known: dict[str, int] = {}
        """UUID -> index at which it was last read."""
        self._xids = Xids(clock)

    def read(self, *, details: bool = False) -> GpuSnapshot:
        waits = time.monotonic() < self._not_before
        if self._absence is not None and waits:
            return self._absent(self._absence)
        self._absence = None
        try:
            nvml = self._start()
            return self._snapshot(nvml, details)
        except Exception as error:  # the binding raises its own classes, OSError and AttributeError (old driver)
            self.close()
            return self._failed(error)

    def close(self) -> None:
        if self._ready and self._module is not None:
            self._ready = False
            self._fixed.clear()
            self._xids.close(self._module)
            with contextlib.suppress(Exception):
                self._module.nvmlShutdown()

    def _failed(self, error: Exception) -> GpuSnapshot:
        found = fault(error)
        if not self._seen and code(error) not in (VERSION_MISMATCH, GPU_IS_LOST):
            found = replace(found, kind="absent")
            if self._mode == "auto":
                self._absence, self._not_before = found, time.monotonic() + RETRY
        return self._absent(found)

    def _absent(self, found: GpuFault) -> GpuSnapshot:
        now = self._clock()
        if self._mode == "auto" and found.kind == "absent":
            return GpuSnapshot(observed=now, faults=(found,))
        error = f"cannot read NVML: {found.text}"
        return GpuSnapshot(
            "nvml", error=error, observed=now, driver=self._driver, xids=self._xids.history, faults=(found,)
        )

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
            self._driver = gpu_details.driver(self._module)
            self._arm(self._module)
        return self._module

    def _arm(self, nvml: Any) -> None:
        handles = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):
                handles[index] = nvml.nvmlDeviceGetHandleByIndex(index)
        self._xids.arm(nvml, handles)

    def _snapshot(self, nvml: Any, details: bool) -> GpuSnapshot:
        gpus: list[Gpu] = []
        processes: list[GpuProcess] = []
        faults: list[GpuFault] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                gpu, listed = self._gpu(nvml, index, details)
            except nvml.NVMLError as error:
                if code(error) in OF_THE_DRIVER:
                    raise
                faults.append(fault(error, index, self._uuid_at(index)))
                continue
            gpus.append(gpu)
            processes += listed
        if details:
            if self._xids.failed:
                self._arm(nvml)
            self._xids.poll(nvml)
        gone = list(self._gone(gpus, faults))
        # Those that are listed can be read in full without the ones that have gone; with none left nothing can be read.
        problems = "; ".join(found.text for found in (faults if gpus else (*faults, *gone)))
        faults += gone
        if self._due_again(gpus, faults):
            self._xids.poll(nvml)
            self.close()
        self._known.update({gpu.uuid: gpu.index for gpu in gpus})
        return GpuSnapshot(
            "nvml", tuple(gpus), tuple(processes), problems, self._clock(), self._driver, self._xids.history,
            tuple(faults),
        )  # fmt: skip

    def _gpu(self, nvml: Any, index: int, details: bool) -> tuple[Gpu, list[GpuProcess]]:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = text(nvml.nvmlDeviceGetUUID(handle)), text(nvml.nvmlDeviceGetName(handle))
        fixed = self._fixed.get(uuid)
        if fixed is None or details:
            fixed = _Fixed(gpu_details.bus_id(nvml, handle), gpu_details.mig_mode(nvml, handle))
            self._fixed[uuid] = fixed
        parts = gpu_memory.instances(nvml, handle) if fixed.mig else []
        total, used, free = gpu_memory.memory(nvml, handle, parts)
        listed = gpu_memory.processes(nvml, index, (handle, *parts))
        more = gpu_details.details(nvml, handle, fixed.mig, parts) if details else None
        return Gpu(index, uuid, name, total, used, free, fixed.bus_id, more), listed

    def _uuid_at(self, index: int) -> str:
        return next((uuid for uuid, known in self._known.items() if known == index), "")

    def _gone(self, gpus: list[Gpu], faults: list[GpuFault]) -> Iterator[GpuFault]:
        """GPUs that were there and are not listed any more: NVML that begins anew leaves out what it lost."""
        listed = {gpu.uuid for gpu in gpus} | {found.uuid for found in faults}
        for uuid, index in self._known.items():
            if uuid not in listed:
                yield GpuFault("lost", f"GPU {uuid}, which was number {index}, is not there any more", -1, uuid)

    def _due_again(self, gpus: list[Gpu], faults: list[GpuFault]) -> bool:
        """A GPU comes back only to those who initialise NVML after that."""
        if not faults or (gpus and time.monotonic() < self._not_before):
            return False
        self._not_before = time.monotonic() + RETRY
        return True
