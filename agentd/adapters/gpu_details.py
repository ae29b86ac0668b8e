"""What is read of a GPU now and then: load, heat, power, errors, links, parts. Any of it may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentd.adapters.gpu_calls import optional, text
from agentd.adapters.gpu_memory import sizes
from agentd.gpu import GpuDetails, GpuDriver, MigInstance, NvLink

MOST_LINKS = 36
_GPU_SENSOR = 0
_CORRECTED, _UNCORRECTED = 0, 1
_SINCE_LOADED = 0
REASONS = {
    0x2: "clock-setting",
    0x4: "power-cap",
    0x8: "hw-slowdown",
    0x10: "sync-boost",
    0x20: "thermal",
    0x40: "hw-thermal",
    0x80: "power-brake",
    0x100: "display-clocks",
}
"""nvmlClocksEventReason... -> the words of gpu.THROTTLES; bit 0 says that the GPU is idle."""


def driver(nvml: Any) -> GpuDriver:
    number = optional(nvml, "nvmlSystemGetCudaDriverVersion_v2")
    cuda = f"{number // 1000}.{number % 1000 // 10}" if number else ""
    version, own = optional(nvml, "nvmlSystemGetDriverVersion"), optional(nvml, "nvmlSystemGetNVMLVersion")
    return GpuDriver(text(version), cuda, text(own))


def bus_id(nvml: Any, handle: Any) -> str:
    return text(getattr(optional(nvml, "nvmlDeviceGetPciInfo_v3", handle), "busId", ""))


def mig_mode(nvml: Any, handle: Any) -> bool | None:
    """The mode in force, not the one that waits for a reset."""
    found = optional(nvml, "nvmlDeviceGetMigMode", handle)
    return None if found is None else bool(found[0])


def details(nvml: Any, handle: Any, mig: bool | None, parts: Sequence[Any]) -> GpuDetails:
    load = optional(nvml, "nvmlDeviceGetUtilizationRates", handle)
    return GpuDetails(
        utilization=None if load is None else load.gpu / 100,
        memory_utilization=None if load is None else load.memory / 100,
        temperature=_number(optional(nvml, "nvmlDeviceGetTemperature", handle, _GPU_SENSOR)),
        power=_watts(optional(nvml, "nvmlDeviceGetPowerUsage", handle)),
        power_limit=_watts(optional(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)),
        throttle=_throttle(nvml, handle),
        ecc_corrected=optional(nvml, "nvmlDeviceGetTotalEccErrors", handle, _CORRECTED, _SINCE_LOADED),
        ecc_uncorrected=optional(nvml, "nvmlDeviceGetTotalEccErrors", handle, _UNCORRECTED, _SINCE_LOADED),
        nvlinks=_links(nvml, handle),
        mig=mig,
        instances=tuple(found for part in parts if (found := _instance(nvml, part)) is not None),
    )


def _number(value: int | None) -> float | None:
    return None if value is None else float(value)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _throttle(nvml: Any, handle: Any) -> tuple[str, ...] | None:
    """Before driver 535 the same bits had another name."""
    bits = optional(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:
        bits = optional(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return None if bits is None else tuple(word for bit, word in REASONS.items() if bits & bit)


def _links(nvml: Any, handle: Any) -> tuple[NvLink, ...]:
    """Numbers that a GPU does not have are refused, and not only those beyond its last one."""
    found = []
    for link in range(MOST_LINKS):
        state = optional(nvml, "nvmlDeviceGetNvLinkState", handle, link)
        if state is None:
            continue
        peer = optional(nvml, "nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
        found.append(NvLink(link, bool(state), text(getattr(peer, "busId", ""))))
    return tuple(found)


def _instance(nvml: Any, part: Any) -> MigInstance | None:
    """None for a part that was removed while we looked."""
    uuid, name = optional(nvml, "nvmlDeviceGetUUID", part), optional(nvml, "nvmlDeviceGetName", part)
    try:
        total, used, free = sizes(nvml, part)
    except nvml.NVMLError:
        return None
    return MigInstance(text(uuid), text(name), total, used, free)
