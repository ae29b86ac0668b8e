"""A stand-in for nvidia-ml-py's `pynvml` that reads the sandbox's simulated GPU memory; same names, same objects.

Only what a monitor needs is here: what is missing raises AttributeError, as an old pynvml would. gpu.json sets what the
driver does; every call reads it anew:

    {"nvml_error": 15}              every call after nvmlInit fails with that error; "init_error" is nvmlInit's own
    {"hang_file": PATH}             every call waits until there is no such file
    {"driver": V, "cuda": 12080, "xids": [[GPU, CODE], ...]}      each Xid is told once in a process
    {"gpus": [{"uuid": U, "bus": ID, "lost": true, "utilization": %, "memory_utilization": %, "temperature": C,
               "power": mW, "power_limit": mW, "throttle": BITS, "ecc": [CORRECTED, UNCORRECTED],
               "links": [{"active": true, "peer": BUS ID}, ...]}, ...]}      what is left out is not supported
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from agentd.sandbox import nvml_errors as _errors
from agentd.sandbox.gpu import ENVIRONMENT, Card, Memory
from agentd.sandbox.nvml_errors import (
    CLASSES,
    NVML_ERROR_GPU_IS_LOST,
    NVML_ERROR_INVALID_ARGUMENT,
    NVML_ERROR_LIBRARY_NOT_FOUND,
    NVML_ERROR_NOT_FOUND,
    NVML_ERROR_NOT_SUPPORTED,
    NVML_ERROR_TIMEOUT,
    NVML_ERROR_UNINITIALIZED,
    NVML_SUCCESS,
    NVMLError,
)

nvmlMemory_v2 = 0x02000028
nvmlEventTypeXidCriticalError = 0x8

globals().update({name: value for name, value in vars(_errors).items() if name.startswith("NVML_")})
globals().update({found.__name__: found for found in CLASSES.values()})


class _Struct:
    """An object with the fields that the real structures show."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__dict__})"


_initialised = 0
_told = 0
_HANG_LOOK = 0.02


def _state() -> dict[str, Any]:
    """gpu.json, once nothing makes the call hang."""
    try:
        state: dict[str, Any] = json.loads((Path(os.environ[ENVIRONMENT]) / "gpu.json").read_text())
    except FileNotFoundError:
        return {}
    while state.get("hang_file") and Path(state["hang_file"]).exists():
        time.sleep(_HANG_LOOK)
    return state


def _raise(error: int) -> None:
    if error != NVML_SUCCESS:
        raise NVMLError(error)


def nvmlInitWithFlags(flags: int) -> None:  # noqa: ARG001
    global _initialised
    if not os.environ.get(ENVIRONMENT):
        raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND)
    _raise(_state().get("init_error", NVML_SUCCESS))
    _initialised += 1


def nvmlInit() -> None:
    nvmlInitWithFlags(0)


def nvmlShutdown() -> None:
    global _initialised
    _driver()
    _initialised -= 1


def _driver() -> dict[str, Any]:
    if not _initialised:
        raise NVMLError(NVML_ERROR_UNINITIALIZED)
    state = _state()
    _raise(state.get("nvml_error", NVML_SUCCESS))
    return state


def _memory() -> Memory:
    _driver()
    return Memory(os.environ[ENVIRONMENT])


def _field(handle: Card, name: str) -> Any:
    """What gpu.json says of this GPU."""
    listed = _driver().get("gpus", [{}])
    found = listed[handle.index] if handle.index < len(listed) else {"lost": True}
    if found.get("lost"):
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    if name not in found:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return found[name]


def nvmlSystemGetDriverVersion() -> str:
    version: str = _driver().get("driver", "580.00.00")
    return version


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    version: int = _driver().get("cuda", 13000)
    return version


def nvmlDeviceGetCount() -> int:
    return len(_memory().cards())


def nvmlDeviceGetHandleByIndex(index: int) -> Card:
    cards = _memory().cards()
    if not 0 <= index < len(cards):
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    return cards[index]


def nvmlDeviceGetHandleByUUID(uuid: str) -> Card:
    for card in _memory().cards():
        if nvmlDeviceGetUUID(card) == uuid:
            return card
    raise NVMLError(NVML_ERROR_NOT_FOUND)


def nvmlDeviceGetIndex(handle: Card) -> int:
    return handle.index


def nvmlDeviceGetName(handle: Card) -> str:
    return handle.name


def nvmlDeviceGetUUID(handle: Card) -> str:
    try:
        uuid: str = _field(handle, "uuid")
    except NVMLError as error:
        if error.value != NVML_ERROR_NOT_SUPPORTED:
            raise
        return f"GPU-00000000-5a4d-4000-8000-{handle.index:012x}"
    return uuid


def nvmlDeviceGetMemoryInfo(handle: Card, version: int | None = None) -> _Struct:
    """`used` of version 2 leaves out what the driver reserves; the old one counts it in."""
    memory = _memory()
    used = min(memory.used(handle.index), handle.total)
    free = handle.total - used
    if not version:
        return _Struct(total=handle.total, free=free, used=used)
    reserved = min(memory.reserved(), used)
    return _Struct(version=version, total=handle.total, reserved=reserved, free=free, used=used - reserved)


def nvmlDeviceGetComputeRunningProcesses(handle: Card) -> list[_Struct]:
    return [
        _Struct(pid=c.pid, usedGpuMemory=c.size, gpuInstanceId=0xFFFFFFFF, computeInstanceId=0xFFFFFFFF)
        for c in _memory().claims()
        if c.gpu == handle.index and c.alive
    ]


nvmlDeviceGetComputeRunningProcesses_v2 = nvmlDeviceGetComputeRunningProcesses
nvmlDeviceGetComputeRunningProcesses_v3 = nvmlDeviceGetComputeRunningProcesses


def nvmlDeviceGetGraphicsRunningProcesses(handle: Card) -> list[_Struct]:
    nvmlDeviceGetHandleByIndex(handle.index)
    return []


nvmlDeviceGetGraphicsRunningProcesses_v2 = nvmlDeviceGetGraphicsRunningProcesses
nvmlDeviceGetGraphicsRunningProcesses_v3 = nvmlDeviceGetGraphicsRunningProcesses


def nvmlDeviceGetUtilizationRates(handle: Card) -> _Struct:
    return _Struct(gpu=_field(handle, "utilization"), memory=_field(handle, "memory_utilization"))


def nvmlDeviceGetTemperature(handle: Card, sensor: int) -> int:  # noqa: ARG001
    return int(_field(handle, "temperature"))


def nvmlDeviceGetPowerUsage(handle: Card) -> int:
    return int(_field(handle, "power"))


def nvmlDeviceGetEnforcedPowerLimit(handle: Card) -> int:
    return int(_field(handle, "power_limit"))


def nvmlDeviceGetCurrentClocksEventReasons(handle: Card) -> int:
    return int(_field(handle, "throttle"))


def nvmlDeviceGetTotalEccErrors(handle: Card, errorType: int, counterType: int) -> int:  # noqa: ARG001
    return int(_field(handle, "ecc")[errorType])


def nvmlDeviceGetPciInfo_v3(handle: Card) -> _Struct:
    return _Struct(busId=_field(handle, "bus").encode())


def nvmlDeviceGetNvLinkState(device: Card, link: int) -> int:
    links = _field(device, "links")
    if link >= len(links):
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    return int(links[link]["active"])


def nvmlDeviceGetNvLinkRemotePciInfo(device: Card, link: int) -> _Struct:
    return _Struct(busId=_field(device, "links")[link].get("peer", "").encode())


def nvmlEventSetCreate() -> _Struct:
    _driver()
    return _Struct()


def nvmlEventSetFree(eventSet: _Struct) -> None:  # noqa: ARG001
    _driver()


def nvmlDeviceGetSupportedEventTypes(handle: Card) -> int:
    nvmlDeviceGetUUID(handle)
    return nvmlEventTypeXidCriticalError


def nvmlDeviceRegisterEvents(handle: Card, eventTypes: int, eventSet: _Struct) -> None:  # noqa: ARG001
    nvmlDeviceGetUUID(handle)


def nvmlEventSetWait_v2(eventSet: _Struct, timeoutms: int) -> _Struct:  # noqa: ARG001
    global _told
    waiting = _driver().get("xids", [])[_told:]
    if not waiting:
        time.sleep(timeoutms / 1000)
        raise NVMLError(NVML_ERROR_TIMEOUT)
    _told += 1
    gpu, number = waiting[0]
    device = _memory().cards()[gpu]
    return _Struct(device=device, eventType=nvmlEventTypeXidCriticalError, eventData=number)
