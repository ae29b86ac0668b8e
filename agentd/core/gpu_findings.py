"""What the last look at the GPUs says that a person should know. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agentd.core.schema import Slot
from agentd.core.xids import meaning
from agentd.findings import Finding, Severity, Verdict
from agentd.gpu import Gpu, GpuFault, GpuSnapshot, Xid

_LOWER = {Severity.ERROR: Severity.WARNING, Severity.WARNING: Severity.INFO}
_KERNEL = "see: journalctl -k -g 'NVRM|Xid'"
_RELOAD = (
    "reboot, or stop everything that uses a GPU and load the driver anew: "
    "sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia"
)
_HELD_BACK = {
    "thermal": ("it is too hot", "check fans, airflow and dust"),
    "hw-thermal": ("it is so hot that the hardware protects itself", "check fans, airflow and dust at once"),
    "power-brake": ("the power supply asks it to", "check the power supply and its cables"),
    "hw-slowdown": ("the hardware protects itself", "see: nvidia-smi -q -d PERFORMANCE"),
}


@dataclass(frozen=True, slots=True)
class GpuView:
    """A snapshot with details, and what only earlier ones told."""

    snapshot: GpuSnapshot
    now: float
    """Wall-clock second."""
    failing: float | None = None
    """The second since which nothing can be read."""
    homes: Mapping[str, int] = field(default_factory=dict)
    """UUID -> the index that the GPU had when it was first seen."""
    links: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """(UUID, link) of every link that was seen active -> its peer's bus id."""


def gpu_findings(view: GpuView, slots: Mapping[str, Slot]) -> tuple[Finding, ...]:
    """Nothing on a machine without a GPU, unless a slot insists on one."""
    measured = {name: slot for name, slot in slots.items() if slot.vram_probe != "none"}
    used = frozenset(index for slot in measured.values() for index in slot.gpus)
    if view.snapshot.source == "none":
        return tuple(_insisting(view.snapshot, measured))
    whole = tuple(_unreadable(view, bool(used)))
    if whole:
        return whole
    return (
        *(_lost(fault, view.homes, used) for fault in view.snapshot.faults),
        *(found for name, slot in measured.items() for found in _slot(view, name, slot)),
        *(found for gpu in view.snapshot.gpus for found in _gpu(gpu, gpu.index in used)),
        *_xids(view, used),
    )


def _wrong(
    subject: str, aspect: str, severity: Severity, cause: str, fix: str, declared: str = "", effective: str = ""
) -> Finding:
    found = Verdict.NOT_EFFECTIVE
    return Finding(subject, aspect, found, severity, declared, effective=effective, cause=cause, fix=fix)


def _weighed(severity: Severity, in_slot: bool) -> Severity:
    """A GPU that no model is put on matters less."""
    return severity if in_slot else _LOWER.get(severity, severity)


def _insisting(snapshot: GpuSnapshot, slots: Mapping[str, Slot]) -> Iterator[Finding]:
    why = "; ".join(fault.text for fault in snapshot.faults) or "there is no NVIDIA GPU"
    for name, slot in slots.items():
        if slot.vram_probe == "nvml":
            cause = f"GPU memory cannot be measured: {why}"
            fix = 'install or load the NVIDIA driver, or set vram_probe = "auto"'
            yield _wrong(f"slot:{name}", "vram_probe", Severity.ERROR, cause, fix, "nvml", "none")


def _unreadable(view: GpuView, needed: bool) -> Iterator[Finding]:
    """What concerns all GPUs at once."""
    severity = _weighed(Severity.ERROR, needed)
    since = "" if view.failing is None else f" for {_span(view.now - view.failing)}"
    for fault in view.snapshot.faults:
        if fault.gpu >= 0 or fault.uuid:
            continue
        if fault.kind == "mismatch":
            cause = "the NVIDIA driver's libraries are of another version than the driver that is loaded"
            yield _wrong("host", "nvidia-driver", severity, cause, _RELOAD)
        elif fault.kind == "driver":
            cause = f"the NVIDIA driver has been gone{since}: {fault.text}"
            yield _wrong("host", "nvidia-driver", severity, cause, f"sudo modprobe nvidia; {_KERNEL}")
        elif fault.kind == "hang":
            cause = f"the NVIDIA driver has not answered{since}; switches cannot see GPU memory"
            yield _wrong("host", "nvml", severity, cause, f"{_KERNEL}; a driver that stays so needs a reboot")
        else:
            cause = f"the GPUs have not been readable{since}: {fault.text}"
            yield _wrong("host", "nvml", severity, cause, _KERNEL)


def _lost(fault: GpuFault, homes: Mapping[str, int], used: frozenset[int]) -> Finding:
    """One GPU that cannot be read, or is not listed any more and known by its UUID alone."""
    index = fault.gpu if fault.gpu >= 0 else homes.get(fault.uuid, -1)
    subject = f"gpu:{index if index >= 0 else fault.uuid}"
    severity = _weighed(Severity.ERROR, index in used)
    if fault.kind == "lost":
        fix = f"{_KERNEL}; a GPU that has fallen off the bus comes back by a reboot or a power cycle"
        return _wrong(subject, "lost", severity, fault.text, fix)
    fix = f'{_KERNEL}; where the driver never tells memory, set vram_probe = "none" for its slot'
    return _wrong(subject, "nvml", severity, fault.text, fix)


def _slot(view: GpuView, name: str, slot: Slot) -> Iterator[Finding]:
    present = {gpu.index: gpu for gpu in view.snapshot.gpus}
    missing = [index for index in slot.gpus if index not in present]
    if missing:
        cause = f"GPU {_list(missing)} of slot {name} is not there"
        fix = "nvidia-smi -L lists what there is; correct gpus of the slot, or bring the GPU back"
        yield _wrong(f"slot:{name}", "gpus", Severity.ERROR, cause, fix, _list(slot.gpus), _list(present))
    first = {index: uuid for uuid, index in view.homes.items()}
    for index in slot.gpus:
        gpu = present.get(index)
        if gpu is not None and first.get(index, gpu.uuid) != gpu.uuid:
            was = view.homes.get(gpu.uuid, index)
            cause = f"GPU {index} is another card than when agentd started: {gpu.uuid}, which was number {was}"
            fix = "compare gpus of the slot with nvidia-smi -L, then restart agentd"
            yield _wrong(f"slot:{name}", "gpus", Severity.WARNING, cause, fix, first[index], gpu.uuid)
    yield from _links(view, name, [present[index] for index in slot.gpus if index in present])


def _links(view: GpuView, name: str, gpus: list[Gpu]) -> Iterator[Finding]:
    """Links between GPUs of one slot, or from one of them into a switch, that are down. Only a link that is known to
    lead somewhere is missed: cards without a bridge have links, too."""
    if len(gpus) < 2:
        return
    ours, cards = {gpu.bus_id for gpu in gpus}, {gpu.bus_id for gpu in view.snapshot.gpus}
    for gpu in gpus:
        down = []
        for link in gpu.details.nvlinks if gpu.details is not None else ():
            seen = (gpu.uuid, link.link) in view.links
            peer = link.peer or view.links.get((gpu.uuid, link.link), "")
            if not link.active and (peer in ours if peer in cards else seen):
                down.append(link.link)
        if down:
            cause = f"NVLink {_list(down)} of GPU {gpu.index} is down, which slot {name} uses between its GPUs"
            fix = f"see: nvidia-smi nvlink -s -i {gpu.index}; reseat the bridge, reset the GPUs or reboot"
            yield _wrong(f"gpu:{gpu.index}", "nvlink", Severity.WARNING, cause, fix, "active", "down")


def _gpu(gpu: Gpu, in_slot: bool) -> Iterator[Finding]:
    subject, details = f"gpu:{gpu.index}", gpu.details
    if details is None:
        return
    if details.ecc_uncorrected:
        cause = f"GPU {gpu.index} had {details.ecc_uncorrected} memory errors that cannot be corrected"
        fix = (
            f"see: nvidia-smi -q -d ECC,ROW_REMAPPER -i {gpu.index}; reset the GPU or reboot; replace it if they go on"
        )
        yield _wrong(subject, "ecc", _weighed(Severity.ERROR, in_slot), cause, fix, "0", str(details.ecc_uncorrected))
    for word in details.throttle or ():
        if word in _HELD_BACK:
            why, fix = _HELD_BACK[word]
            heat = "" if details.temperature is None else f" ({details.temperature:.0f} °C)"
            cause = f"GPU {gpu.index}{heat} is held back because {why}"
            yield _wrong(subject, f"throttle-{word}", _weighed(Severity.WARNING, in_slot), cause, fix)
    if details.mig and in_slot:
        cause = (
            f"GPU {gpu.index} is divided (MIG) into {len(details.instances)} instances, while a slot counts it whole: "
            "a model sees one instance and less memory"
        )
        fix = f'sudo nvidia-smi -i {gpu.index} -mig 0, or vram_probe = "none" for the slot'
        yield _wrong(subject, "mig", Severity.WARNING, cause, fix, "off", "on")


def _xids(view: GpuView, used: frozenset[int]) -> Iterator[Finding]:
    """The newest of each kind, for as long as it matters."""
    newest: dict[tuple[int, int], tuple[Xid, int]] = {}
    for xid in view.snapshot.xids:
        newest[xid.gpu, xid.code] = (xid, newest.get((xid.gpu, xid.code), (xid, 0))[1] + 1)
    for xid, count in newest.values():
        found = meaning(xid.code)
        age = max(0.0, view.now - xid.time)
        if age > found.kept:
            continue
        where = f"GPU {xid.gpu}" if xid.gpu >= 0 else "a GPU"
        often = f", {count} times" if count > 1 else ""
        cause = f"{where} reported Xid {xid.code} {_span(age)} ago{often}: {found.text}"
        subject = f"gpu:{xid.gpu}" if xid.gpu >= 0 else "host"
        severity = _weighed(found.severity, xid.gpu < 0 or xid.gpu in used)
        yield _wrong(subject, f"xid-{xid.code}", severity, cause, found.fix.replace("INDEX", str(max(xid.gpu, 0))))


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _span(seconds: float) -> str:
    """Two digits are enough: "42 s", "5 min", "3 h"."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
