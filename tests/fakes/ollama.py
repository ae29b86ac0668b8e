"""Ollama as far as agentd looks: what is loaded, loading by a request, unloading that is answered before it is done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentd.types import ActiveState

from .prober import Reply, Request, answer

if TYPE_CHECKING:
    from .world import FakeWorld

KEEP_ALIVE = 300.0
FOR_EVER = 4e9


@dataclass
class FakeOllama:
    """Its fields are settings that may be changed at any time. It answers while its unit is up."""

    unit: str
    url: str
    world: FakeWorld
    version: str = "0.24.0"
    library: dict[str, int] = field(default_factory=lambda: {"llama3:8b": 5 * 1024**3, "mistral:7b": 5 * 1024**3})
    """Model -> bytes that it wants."""
    loaded: dict[str, int] = field(default_factory=dict)
    """Model -> bytes of GPU memory; less than it wants, down to 0, when the GPU was full."""
    unload_seconds: float = 0.5
    stubborn: bool = False
    """Answers that it unloads, and does not."""
    busy: dict[str, int] = field(default_factory=dict)
    """Model -> requests in work; it is not unloaded before the last has ended."""
    reloads: int = 0
    """So many times a client asks for a model again, `reload_after` seconds after it was unloaded."""
    reload_after: float = 0.05
    lingers: bool = False
    """The runner of a model that is unloaded does not end, and keeps its memory."""
    ps: Reply | str = ""
    """What /api/ps answers instead of the truth."""
    gone: bool = False
    """Refuses connections although its unit is up."""
    comm: str = "ollama"
    pids: dict[str, int] = field(default_factory=dict)
    expires: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Paths of the requests, in their order."""

    def load(self, model: str, size: int = 0) -> None:
        """As a client's request does: what does not fit on the GPU stays in main memory."""
        wanted = size or self.library.get(model, 0)
        self.library.setdefault(model, wanted)
        gpus = self.world.gpus
        vram = min(wanted, max(0, gpus.total - gpus.used()))
        self.loaded[model] = vram
        self.expires[model] = self.world.clock.time() + KEEP_ALIVE
        state = self.world.units.state(self.unit)
        group = f"{state.control_group or '/app.slice/' + self.unit}/r"
        self.pids[model] = self.world.kernel.spawn(
            self.comm, unit=self.unit if state.exists else "", control_group=group
        )
        if vram:
            gpus.hold(self.pids[model], vram)

    def finish(self, model: str) -> None:
        """The last request to it ends."""
        self.busy.pop(model, None)
        if self.expires.get(model, FOR_EVER) <= self.world.clock.time():
            self._later(model)

    def ended(self) -> None:
        """Its unit has ended, and every runner with it."""
        for pid in self.pids.values():
            self.world.kernel.exit(pid)
        for table in (self.loaded, self.pids, self.expires, self.busy):
            table.clear()

    def reply(self, request: Request) -> Reply:
        state = self.world.units.state(self.unit)
        if self.gone or (state.exists and state.active_state is not ActiveState.ACTIVE):
            return None
        self.asked.append(request.path)
        if request.path == "/api/ps":
            return answer(200, {"models": [self._entry(m) for m in self.loaded]}) if self.ps == "" else _said(self.ps)
        if request.path == "/api/version":
            return answer(200, {"version": self.version})
        if request.path in ("/api/generate", "/api/chat") and isinstance(request.json, dict):
            return self._generate(request.json)
        return answer(200 if request.path == "/" else 404, "Ollama is running")

    def _entry(self, model: str) -> dict[str, object]:
        entry = {"name": model, "model": model, "size": self.library[model], "size_vram": self.loaded[model]}
        stamp = datetime.fromtimestamp(min(self.expires[model], FOR_EVER), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        return {**entry, "expires_at": f"{stamp}123Z", "context_length": 4096}

    def _generate(self, body: dict[str, Any]) -> Reply:
        model = str(body.get("model"))
        if model not in self.library:
            return answer(404, {"error": f"model '{model}' not found"})
        if body.get("keep_alive") == 0 and not body.get("prompt"):
            if model in self.loaded and not self.stubborn:
                self.expires[model] = self.world.clock.time()
                if not self.busy.get(model):
                    self._later(model)
            return answer(200, {"model": model, "response": "", "done": True, "done_reason": "unload"})
        if model not in self.loaded:
            self.load(model)
        return answer(200, {"model": model, "response": "hello", "done": True, "done_reason": "stop"})

    def _later(self, model: str) -> None:
        asyncio.get_running_loop().call_later(self.unload_seconds, self._unload, model)

    def _unload(self, model: str) -> None:
        if self.busy.get(model) or self.loaded.pop(model, None) is None:
            return
        pid = self.pids.pop(model)
        if not self.lingers:
            self.world.kernel.exit(pid)
        self.expires.pop(model, None)
        if self.reloads > 0:
            self.reloads -= 1
            asyncio.get_running_loop().call_later(self.reload_after, self.load, model)


def _said(reply: Reply | str) -> Reply:
    return answer(200, reply) if isinstance(reply, str) else reply
