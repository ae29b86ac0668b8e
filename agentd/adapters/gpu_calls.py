"""How NVML's errors are taken: what is not supported costs one field, a driver that has gone is told."""

from __future__ import annotations

from typing import Any

from agentd.gpu import GpuFault

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, DRIVER_NOT_LOADED, TIMEOUT = 1, 3, 4, 6, 9, 10
FUNCTION_NOT_FOUND, GPU_IS_LOST, VERSION_MISMATCH, GPU_NOT_FOUND = 13, 15, 18, 28

OF_THE_DRIVER = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, VERSION_MISMATCH})
"""No GPU can be read any more; NVML has to be initialised anew."""
_FATAL = OF_THE_DRIVER | {GPU_IS_LOST, GPU_NOT_FOUND}
_KINDS = {
    UNINITIALIZED: "driver",
    DRIVER_NOT_LOADED: "driver",
    VERSION_MISMATCH: "mismatch",
    NOT_FOUND: "lost",
    GPU_IS_LOST: "lost",
    GPU_NOT_FOUND: "lost",
}


def code(error: BaseException) -> int:
    """NVML's number, -1 for what is no error of NVML."""
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else -1


def optional(nvml: Any, name: str, *arguments: Any) -> Any:
    """The answer, or None where the module, the driver or the GPU does not know the question.

    Raises NVML's error when the GPU or the driver has gone.
    """
    try:
        return getattr(nvml, name)(*arguments)
    except AttributeError:
        return None
    except nvml.NVMLError as error:
        if code(error) in _FATAL:
            raise
        return None


def text(value: str | bytes | None) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value or ""


def reason(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "the pynvml module is not installed"
    said = str(error).strip()
    if said[1:2].islower():
        said = said[0].lower() + said[1:]
    return said or type(error).__name__


def fault(error: BaseException, gpu: int = -1, uuid: str = "") -> GpuFault:
    said = reason(error)
    return GpuFault(_KINDS.get(code(error), "error"), f"GPU {gpu}: {said}" if gpu >= 0 else said, gpu, uuid)
