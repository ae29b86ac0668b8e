"""What NVML says of the GPUs. Memory in bytes, temperatures in degrees Celsius, power in watts, shares from 0 to 1.

A field that the driver, the GPU or the platform does not know is None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

THROTTLES = (
    "power-cap",
    "thermal",
    "hw-thermal",
    "power-brake",
    "hw-slowdown",
    "sync-boost",
    "clock-setting",
    "display-clocks",
)
"""Every reason in `GpuDetails.throttle`. A capped power is how a GPU works under load; heat and the brake are not."""


@dataclass(frozen=True, slots=True)
class NvLink:
    """One link of a GPU; `peer` is the PCI bus id at its other end, "" where it is not told."""

    link: int
    active: bool
    peer: str = ""


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A part of a GPU that is a device of its own (Multi-Instance GPU)."""

    uuid: str
    name: str
    total: int
    used: int
    free: int


@dataclass(frozen=True, slots=True)
class GpuDetails:
    """What changes slowly or matters to a person; read less often than memory."""

    utilization: float | None = None
    memory_utilization: float | None = None
    """Share of time in which memory was read or written; not how full it is."""
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    throttle: tuple[str, ...] | None = None
    """Why the clocks are held back now, words of THROTTLES; idle is none."""
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    """Errors since the driver was loaded."""
    nvlinks: tuple[NvLink, ...] = ()
    mig: bool | None = None
    instances: tuple[MigInstance, ...] = ()


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; memory in bytes."""

    index: int
    uuid: str
    name: str
    total: int
    used: int
    free: int
    bus_id: str = ""
    details: GpuDetails | None = None
    """None in a snapshot that asked for memory alone, and where nobody has asked yet."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    pid: int
    gpu: int
    used: int
    """Bytes; 0 where the driver does not say (WSL, another namespace)."""


@dataclass(frozen=True, slots=True)
class GpuHolder:
    """A process on a GPU, with its name for a person. `unit` is "" outside any unit, `used` 0 where it is not told."""

    gpu: int
    pid: int
    unit: str
    program: str
    used: int
    foreign: bool
    """True for what belongs to no service of the configuration."""


@dataclass(frozen=True, slots=True)
class GpuFault:
    """What keeps a GPU, or with index -1 all of them, from being read.

    `kind`: "absent" (no driver, no module: a machine without a GPU), "lost", "mismatch" (the library does not fit the
    driver that is loaded), "driver" (not loaded, or being replaced), "hang" or "error".
    """

    kind: str
    text: str
    gpu: int = -1
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class GpuDriver:
    version: str = ""
    cuda: str = ""
    """The newest CUDA version that this driver serves, "12.8"."""
    nvml: str = ""


@dataclass(frozen=True, slots=True)
class Xid:
    """An error that the driver reported for a GPU; `time` is the wall-clock second at which we read it."""

    gpu: int
    code: int
    time: float
    seq: int = 0
    """Its number since agentd started; two alike differ in it."""


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """`source` is "nvml" or "none"; `error` says why NVML could not be read, or not in full."""

    source: str = "none"
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    error: str = ""
    observed: float = 0.0
    driver: GpuDriver | None = None
    xids: tuple[Xid, ...] = ()
    """The newest ones since agentd has been looking, oldest first."""
    faults: tuple[GpuFault, ...] = ()
    """The parts of `error`; also why there is nothing to read where `source` is "none"."""
    holders: tuple[GpuHolder, ...] = ()
    """`processes` with their names; in the snapshot that is shown, not in what the port reads."""

    def trouble(self, gpus: Iterable[int]) -> str:
        """`error`, but "" when each of these GPUs was read: another one that is lost does not concern them."""
        read = {g.index for g in self.gpus}
        return self.error if not read.issuperset(gpus) else ""
