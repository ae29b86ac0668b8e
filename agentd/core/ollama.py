"""Ollama's API as texts: what is loaded, its version, the request that unloads, what keeps it off the GPU. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agentd.errors import AgentdError
from agentd.runtimes import RuntimeModel

PS, VERSION, GENERATE = "/api/ps", "/api/version", "/api/generate"

OFF_GPU: Mapping[str, str] = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "ROCR_VISIBLE_DEVICES": "-1",
    "HIP_VISIBLE_DEVICES": "-1",
    "GGML_VK_VISIBLE_DEVICES": "-1",
}
"""Environment in which it finds no GPU: -1 is an index that no device has, for CUDA, for ROCm (two names) and for
Vulkan. An empty value would be read as "not set" by some of them."""

PROGRAMS = ("ollama", "llama-server")
"""Names of its processes, as comm shows their first 15 characters: the server, and its runners of all times ("ollama
runner", "ollama_llama_server", "llama-server")."""

FRACTION = re.compile(r"\.(\d+)")
MICROSECONDS = 6
LARGEST = 1 << 60


def loaded(status: int, body: bytes) -> tuple[RuntimeModel, ...]:
    """The models of an answer to GET /api/ps. Raises AgentdError("probe-invalid") when it is none."""
    if status != 200:
        raise AgentdError("probe-invalid", f"{PS} answered {status}{excerpt(body)}")
    found = _json(body, PS)
    models = found.get("models") if isinstance(found, dict) else None
    if models is None and isinstance(found, dict) and "models" in found:
        return ()  # Go writes an empty list that was never made as null.
    if not isinstance(models, list):
        raise AgentdError("probe-invalid", f"{PS} answered something that is not a model list")
    merged: dict[str, RuntimeModel] = {}
    for model in map(_model, models):
        merged[model.name] = _together(merged[model.name], model) if model.name in merged else model
    return tuple(merged.values())


def version(status: int, body: bytes) -> str:
    """Of an answer to GET /api/version; "" when it does not tell."""
    if status != 200:
        return ""
    try:
        found = _json(body, VERSION)
    except AgentdError:
        return ""
    text = found.get("version") if isinstance(found, dict) else None
    return text if isinstance(text, str) else ""


def unload(model: str) -> dict[str, object]:
    """The body of POST /api/generate that unloads: answered at once, done when its last request has ended."""
    return {"model": model, "keep_alive": 0, "stream": False}


def excerpt(body: bytes) -> str:
    """`: what it says`, for the end of a sentence; "" for an empty answer."""
    text = body[:4096].decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
        text = str(found["error"]) if isinstance(found, dict) and "error" in found else text
    except (ValueError, RecursionError):
        pass
    text = " ".join(text.split())[:200]
    return f": {text}" if text else ""


def off_gpu(environment: Mapping[str, str]) -> bool:
    """The process that has this environment cannot see a GPU of NVIDIA."""
    return environment.get("CUDA_VISIBLE_DEVICES") == OFF_GPU["CUDA_VISIBLE_DEVICES"]


def _json(body: bytes, path: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise AgentdError("probe-invalid", f"{path} answered something that is not JSON") from error


def _model(entry: object) -> RuntimeModel:
    if not isinstance(entry, dict) or not isinstance(entry.get("name") or entry.get("model"), str):
        raise AgentdError("probe-invalid", f"{PS} answered a model without a name")
    name = str(entry.get("name") or entry["model"])
    return RuntimeModel(name, _size(entry.get("size")), _size(entry.get("size_vram")), _time(entry.get("expires_at")))


def _together(one: RuntimeModel, other: RuntimeModel) -> RuntimeModel:
    """A name is listed twice when a newer model was pulled under it while the old one is still loaded."""
    expires = max(one.expires, other.expires)
    return RuntimeModel(one.name, one.size + other.size, one.size_vram + other.size_vram, expires)


def _size(value: object) -> int:
    """Bytes; left out by Go when it is 0."""
    return max(0, int(value)) if isinstance(value, (int, float)) and abs(value) < LARGEST else 0


def _time(value: object) -> float:
    """RFC 3339 as Go writes it, with up to nine digits of a second; 0.0 when it is not told, or before 1970."""
    if not isinstance(value, str):
        return 0.0
    text = FRACTION.sub(lambda match: "." + match[1][:MICROSECONDS].ljust(MICROSECONDS, "0"), value, count=1)
    try:
        when = datetime.fromisoformat(text)
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0.0
