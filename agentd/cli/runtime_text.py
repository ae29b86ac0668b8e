"""Other users of the GPU (Ollama), as a person reads them: a line each."""

from __future__ import annotations

from typing import Any

from agentd.cli.store_text import size
from agentd.cli.terminal import clean

Row = dict[str, Any]


def lines(status: Row) -> list[str]:
    """Of those that run. What does not answer says its service's health already."""
    return [_line(found) for found in status.get("runtimes", ()) if found["reachable"]]


def _line(found: Row) -> str:
    name = f"{found['name']} {found['version']}".rstrip()
    models = ", ".join(map(_model, found["models"])) or "nothing loaded"
    return clean(f"runtime {name} ({found['policy']}): {models}")


def _model(model: Row) -> str:
    """ "llama3:8b on the GPU (4.9 GiB)"."""
    vram = model["size_vram"]
    if not vram:
        return f"{model['name']} on the CPU"
    part = f" of {size(model['size'])}" if model["size"] > vram else ""
    return f"{model['name']} on the GPU ({size(vram)}{part})"
