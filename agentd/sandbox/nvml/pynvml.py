"""A stand-in for nvidia-ml-py's `pynvml` that reads the sandbox's simulated GPU memory; same names, same objects.

Only what a monitor needs is here: what is missing raises AttributeError, as an old pynvml would. With
`{"nvml_error": 15}` in gpu.json every call after nvmlInit fails with that error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from agentd.sandbox.gpu import ENVIRONMENT, Card, Memory

NVML_SUCCESS = 0
NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_TIMEOUT = 10
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_UNKNOWN = 999

nvmlMemory_v2 = 0x02000028

_MESSAGES = {
    NVML_ERROR_UNINITIALIZED: "Uninitialized",
    NVML_ERROR_INVALID_ARGUMENT: "Invalid Argument",
    NVML_ERROR_NOT_SUPPORTED: "Not Supported",
    NVML_ERROR_NO_PERMISSION: "Insufficient Permissions",
    NVML_ERROR_NOT_FOUND: "Not Found",
    NVML_ERROR_DRIVER_NOT_LOADED: "Driver Not Loaded",
    NVML_ERROR_TIMEOUT: "Timeout",
    NVML_ERROR_LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    NVML_ERROR_FUNCTION_NOT_FOUND: "Function Not Found",
    NVML_ERROR_GPU_IS_LOST: "GPU is lost",
    NVML_ERROR_UNKNOWN: "Unknown Error",
}


class NVMLError(Exception):
    """As in pynvml: made with a code, it becomes an object of that code's class."""

    value: int

    def __new__(cls, value: int) -> NVMLError:
        error: NVMLError = Exception.__new__(_CLASSES.get(value, cls) if cls is NVMLError else cls)
        error.value = value
        return error

    def __str__(self) -> str:
        return _MESSAGES.get(self.value, f"NVML Error with code {self.value}")


def _class_of(value: int) -> type[NVMLError]:
    def new(cls: type[NVMLError], *_: object) -> NVMLError:
        return NVMLError.__new__(cls, value)

    words = next(n for n, v in globals().items() if n.startswith("NVML_ERROR_") and v == value)
    name = "NVMLError_" + words.removeprefix("NVML_ERROR_").title().replace("_", "")
    return type(name, (NVMLError,), {"__new__": new, "__module__": __name__})


_CLASSES: dict[int, type[NVMLError]] = {}
_CLASSES.update({value: _class_of(value) for value in _MESSAGES})
globals().update({c.__name__: c for c in _CLASSES.values()})


class _Struct:
    """An object with the fields that the real structures show."""

    def __init__(self, **fields: int | None) -> None:
        self.__dict__.update(fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__dict__})"


_initialised = 0


def nvmlInitWithFlags(flags: int) -> None:  # noqa: ARG001
    global _initialised
    if not os.environ.get(ENVIRONMENT):
        raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND)
    _initialised += 1


def nvmlInit() -> None:
    nvmlInitWithFlags(0)


def nvmlShutdown() -> None:
    global _initialised
    _memory()
    _initialised -= 1


def _memory() -> Memory:
    if not _initialised:
        raise NVMLError(NVML_ERROR_UNINITIALIZED)
    directory = Path(os.environ[ENVIRONMENT])
    try:
        error = json.loads((directory / "gpu.json").read_text()).get("nvml_error", NVML_SUCCESS)
    except FileNotFoundError:
        error = NVML_SUCCESS
    if error != NVML_SUCCESS:
        raise NVMLError(error)
    return Memory(directory)


def nvmlSystemGetDriverVersion() -> str:
    _memory()
    return "580.00.00"


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
    return f"GPU-00000000-5a4d-4000-8000-{handle.index:012x}"


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
