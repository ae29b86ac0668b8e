"""Another user of the GPU (Ollama) as agentd last saw it. Bytes, and wall-clock seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RuntimeModel:
    """A model that a runtime has loaded; `size_vram` of its `size` bytes are on GPUs, 0 when it runs on the CPU."""

    name: str
    size: int = 0
    size_vram: int = 0
    expires: float = 0.0
    """When it is unloaded unless it is used; 0: not told. In the past: it goes as soon as nothing uses it."""


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """`reachable` is None while nobody has asked: its unit does not run, or it has just been configured."""

    name: str
    unit: str
    url: str
    policy: str
    managed: str
    reachable: bool | None = None
    version: str = ""
    models: tuple[RuntimeModel, ...] = ()
    error: str = ""
    """Why the last question had no answer; "" when it had one."""
    observed: float = 0.0
    """When it was last asked; 0: never."""

    @property
    def vram(self) -> int:
        """GPU memory of its models, by its own account."""
        return sum(model.size_vram for model in self.models)
