"""Memory and processes of one GPU by NVML: what a switch asks for ten times a second, so it asks for nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from agentd.adapters.gpu_calls import FUNCTION_NOT_FOUND, NO_PERMISSION, NOT_SUPPORTED, code, optional
from agentd.gpu import GpuProcess

COMPUTE, GRAPHICS = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"
VERSIONS = ("_v3", "_v2")
"""Drivers before 510 know the older one only; the name without a number is the newest, and fails on them."""


class Sizes(NamedTuple):
    total: int
    used: int
    free: int


def instances(nvml: Any, handle: Any) -> list[Any]:
    """Handles of the MIG devices on this GPU; their places need not be filled from the first one on."""
    places = range(optional(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0)
    found = (optional(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, place) for place in places)
    return [device for device in found if device is not None]


def memory(nvml: Any, handle: Any, parts: Sequence[Any] = ()) -> Sizes:
    """Of a GPU that is divided: the sum of its parts where only the administrator may see the whole."""
    try:
        return sizes(nvml, handle)
    except nvml.NVMLError as error:
        if not parts or code(error) != NO_PERMISSION:
            raise
        return Sizes(*map(sum, zip(*(sizes(nvml, part) for part in parts), strict=True)))


def sizes(nvml: Any, handle: Any) -> Sizes:
    """Version 2 tells apart what the driver keeps for itself; older drivers know version 1 only."""
    version = getattr(nvml, "nvmlMemory_v2", None)
    found = None
    if version is not None:
        with contextlib.suppress(nvml.NVMLError):
            found = nvml.nvmlDeviceGetMemoryInfo(handle, version=version)
    if found is None:
        found = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Sizes(int(found.total), int(found.used), int(found.free))


def processes(nvml: Any, index: int, handles: Iterable[Any]) -> list[GpuProcess]:
    """Compute and graphics processes on a GPU and its MIG devices, each pid once.

    One that is both compute and graphics is listed twice with the same memory; one on two MIG devices holds the sum.
    """
    used: dict[tuple[int, int], int] = {}
    for handle in handles:
        for query in (COMPUTE, GRAPHICS):
            for process in _listed(nvml, query, handle):
                key = (int(process.pid), int(getattr(process, "gpuInstanceId", None) or 0))
                used[key] = max(used.get(key, 0), int(process.usedGpuMemory or 0))
    found: dict[int, int] = {}
    for (pid, _), size in used.items():
        found[pid] = found.get(pid, 0) + size
    return [GpuProcess(pid, index, size) for pid, size in sorted(found.items())]


def _listed(nvml: Any, query: str, handle: Any) -> Any:
    """Nothing where this kind is not listed: graphics on many, anything for a whole GPU that is divided.

    Raises NVML's error when the list of compute processes cannot be read for another reason: a switch must not take
    "unknown" for "nobody".
    """
    if query == GRAPHICS:
        found = (optional(nvml, query + version, handle) for version in VERSIONS)
        return next((listed for listed in found if listed is not None), ())
    for version in VERSIONS:
        function = getattr(nvml, query + version, None)
        if function is None:
            continue
        try:
            return function(handle)
        except nvml.NVMLError as error:
            if code(error) == FUNCTION_NOT_FOUND:
                continue
            if code(error) in (NOT_SUPPORTED, NO_PERMISSION):
                return ()
            raise
    return ()
