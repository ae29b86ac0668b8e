"""A slot of several GPUs on a machine where not all of them are there: what is configured for that case. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from agentd.core.schema import Model, Service, Settings, Slot
from agentd.gpu import GpuSnapshot


@dataclass(frozen=True, slots=True)
class Fallen:
    """A slot that makes do with some of its GPUs."""

    slot: str
    missing: tuple[int, ...]
    gpus: tuple[int, ...]

    def __str__(self) -> str:
        rest = f"GPU {self.gpus[0]} alone" if len(self.gpus) == 1 else f"GPUs {_listed(self.gpus)}"
        here = f"models of slot {self.slot} start on {rest}, with what is configured for that"
        return f"{_gone(self.missing)} missing: {here}"


def wanted(settings: Settings) -> bool:
    """Whether it matters which GPUs are there."""
    return any(slot.fallback_gpus for slot in settings.slots.values())


def missing_gpus(snapshot: GpuSnapshot, indices: Iterable[int]) -> frozenset[int] | None:
    """Those that are certainly not there; None when it cannot be told. A GPU that only fails to answer is there."""
    if snapshot.source != "nvml" or not snapshot.gpus:
        return None
    gone = frozenset(indices) - {gpu.index for gpu in snapshot.gpus}
    unsure = {fault.gpu for fault in snapshot.faults if fault.kind != "lost"}
    return None if unsure & {*gone, -1} else gone


def fitted(settings: Settings, missing: frozenset[int]) -> tuple[Settings, tuple[Fallen, ...]]:
    """The settings for the GPUs that are there. A slot whose fallback is missing, too, is left as it is: its PRECHECK
    says what is wrong."""
    fallen = []
    for name, slot in settings.slots.items():
        gone = tuple(index for index in slot.gpus if index in missing)
        if gone and slot.fallback_gpus and not missing & set(slot.fallback_gpus):
            fallen.append(Fallen(name, gone, slot.fallback_gpus))
    if not fallen:
        return settings, ()
    down = {one.slot: one.gpus for one in fallen}
    slots = {n: _slot(s) if n in down else s for n, s in settings.slots.items()}
    services = {n: _service(s, down) for n, s in settings.services.items()}
    return msgspec.structs.replace(settings, slots=slots, services=services), tuple(fallen)


def stranded(settings: Settings, missing: frozenset[int]) -> dict[str, tuple[int, ...]]:
    """Slots that have a fallback of which a GPU is missing, too -> all that are missing of the slot."""
    return {
        name: tuple(index for index in slot.gpus if index in missing)
        for name, slot in settings.slots.items()
        if missing & set(slot.fallback_gpus)
    }


def told_stranded(slot: str, missing: tuple[int, ...]) -> str:
    return f"{_gone(missing)} missing, also for the fallback of slot {slot}: its models cannot start"


def in_fallback(slot: Slot) -> bool:
    """Of fitted settings: the slot makes do with its fallback."""
    return bool(slot.fallback_gpus) and slot.gpus == slot.fallback_gpus


def _slot(slot: Slot) -> Slot:
    return msgspec.structs.replace(slot, gpus=slot.fallback_gpus)


def _service(service: Service, down: dict[str, tuple[int, ...]]) -> Service:
    model = service.model
    if model is None or model.slot not in down:
        return service
    return msgspec.structs.replace(service, model=_model(model, len(down[model.slot])))


def _model(model: Model, gpus: int) -> Model:
    other = model.fallback
    return msgspec.structs.replace(
        model,
        tensor_parallel=other.tensor_parallel or gpus,
        utilization=other.utilization or model.utilization,
        max_model_len=other.max_model_len or model.max_model_len,
        vram=other.vram or model.vram,
    )


def _gone(indices: tuple[int, ...]) -> str:
    return f"GPU {indices[0]} is" if len(indices) == 1 else f"GPUs {_listed(indices)} are"


def _listed(indices: tuple[int, ...]) -> str:
    return ", ".join(map(str, indices[:-1])) + f" and {indices[-1]}"
