"""Flags of vLLM that the configuration decides, without an edit of the unit: its command line takes them from variables
(`--gpu-memory-utilization ${AGENTD_UTILIZATION}`), which the unit gives a value and a drop-in another one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from agentd.core.dropin import DropIn, Purpose, directives
from agentd.core.model_unit import MAX_MODEL_LEN, TENSOR_PARALLEL, UTILIZATION
from agentd.core.schema import Model

FLAGS: Mapping[str, tuple[str, str]] = {
    "utilization": (UTILIZATION, "--gpu-memory-utilization"),
    "max_model_len": (MAX_MODEL_LEN, "--max-model-len"),
    "tensor_parallel": (TENSOR_PARALLEL, "--tensor-parallel-size"),
}
"""Key of the configuration -> variable, flag."""

_COMMENT = "What the configuration says of this model; counts from its next start."


def drop_in(unit: str, model: Model, gpus: Sequence[int] = ()) -> DropIn | None:
    """None when everything is as the unit says. `gpus`: those that it must make do with."""
    values = [("Environment", f"{FLAGS[key][0]}={value}") for key, value in _set(model).items()]
    if gpus:
        visible = ",".join(map(str, gpus))
        values.append(("Environment", f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={visible}"))
    return directives(unit, Purpose.MODEL, {"Service": values}, comment=_COMMENT) if values else None


def without_effect(model: Model, texts: Iterable[str]) -> list[str]:
    """Keys that are set, and that the unit does not heed: it takes no such variable, and says something else itself.

    `texts`: the unit's file and its drop-ins.
    """
    lines = [line for text in texts for line in text.splitlines() if not line.lstrip().startswith(("#", ";"))]
    text = "\n".join(lines)
    return [key for key, value in _set(model).items() if not _heeds(text, *FLAGS[key], value)]


def _heeds(text: str, variable: str, flag: str, value: str) -> bool:
    if f"${{{variable}}}" in text or f"${variable}" in text:
        return True
    written = re.findall(rf"{flag}(?:=|\s+\\?\s*)[\"']?([^\s\"']+)", text)
    return bool(written) and _number(written[-1]) == _number(value)


def _set(model: Model) -> dict[str, str]:
    return {key: f"{value:g}" if key == "utilization" else str(value)
            for key in FLAGS if (value := getattr(model, key))}  # fmt: skip


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
