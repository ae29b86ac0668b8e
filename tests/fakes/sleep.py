"""vLLM's sleep mode, as notes and sources have it: what it does to the GPU, to main memory and to the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from .gpus import GIB
from .prober import Reply, Request, answer

if TYPE_CHECKING:
    from .world import FakeModel


@dataclass
class FakeSleep:
    """`fault` is what goes wrong: "keeps-memory" and "half" (the sleep frees nothing, or half of it), "sleep-500",
    "sleep-hangs", "lies" (says that it sleeps and does not), "wake-500", "wake-hangs", "garbage" (wakes and has lost
    its mind), "awake-not" (the wake answers "sleeping")."""

    fault: str = ""
    weights: int = 8 * GIB
    """Bytes that level 1 pins in main memory, at the first sleep of a process."""
    residual: int = GIB
    seconds: float = 0.4
    wake_seconds: float = 0.2
    metrics: bool = True
    """Whether the metrics tell the state of the engine (not with --disable-log-stats)."""
    level: int = 0
    mapped: int = 0
    dead: bool = False
    garbled: bool = False
    slept: int = 0
    """How often it fell asleep; `woken` likewise."""
    woken: int = 0
    _pinned: int = 0
    _holder: int = 0
    _weightless: bool = False
    _until: dict[str, float] = field(default_factory=dict)

    def begin(self, model: FakeModel, holder: int) -> None:
        self._holder, self.mapped = holder, model.vram
        self.level, self.dead, self.garbled, self._weightless = 0, False, False, False
        self._until.clear()

    def end(self, model: FakeModel) -> None:
        model.world.kernel.available += self._pinned
        self._pinned = 0
        model.sleeping = model.paused = False

    def answer(self, model: FakeModel, request: Request) -> Reply:
        """The admin endpoints; 404 for what is none."""
        url = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        match request.method, url.path:
            case "GET", "/is_sleeping":
                # The engine answers it between two pieces of work, so not while it falls asleep.
                # One that is only paused calls itself asleep, too.
                said = model.sleeping or model.paused
                return answer(200, {"is_sleeping": said}) if "/sleep" not in self._until else 0.05
            case "GET", "/is_paused":
                return answer(200, {"is_paused": model.paused})
            case "POST", "/pause":
                return self._pause(model, query)
            case "POST", "/resume":
                model.paused = False
                return answer(200, {"status": "resumed"})
            case "POST", "/sleep":
                return self._sleep(model, int(query.get("level", "1")))
            case "POST", "/wake_up":
                return self._wake(model, query.get("tags", ""))
            case "POST", "/collective_rpc":
                self._weightless = False
                return answer(200, {"results": [None]})
            case "POST", "/reset_prefix_cache":
                return answer(200)
        return answer(404, {"detail": "Not Found"})

    def metric(self, model: FakeModel) -> list[str]:
        """Lines of /metrics."""
        if not self.metrics:
            return []
        states = {"awake": not model.sleeping, "weights_offloaded": model.sleeping and self.level == 1,
                  "discard_all": model.sleeping and self.level == 2}  # fmt: skip
        label = 'engine="0",model_name="x",sleep_state='
        return [f'vllm:engine_sleep_state{{{label}"{name}"}} {float(on)}' for name, on in states.items()]

    def _pause(self, model: FakeModel, query: dict[str, str]) -> Reply:
        model.paused = True
        if query.get("mode", "abort") == "abort":
            model.running = model.waiting = 0
        if model.running or model.waiting:
            return 0.1
        return answer(200, {"status": "paused"})

    def _work(self, path: str, seconds: float) -> bool:
        """True once the work that the request began is done; the handler is asked again meanwhile."""
        now = asyncio.get_running_loop().time()
        if self._until.setdefault(path, now + seconds) > now + 1e-6:
            return False
        del self._until[path]
        return True

    def _sleep(self, model: FakeModel, level: int) -> Reply:
        if self.fault == "sleep-hangs":
            return 3600.0
        if not self._work("/sleep", self.seconds):
            return self.seconds
        if model.running or model.waiting:
            self.dead = True
            return answer(500, {"error": "CUDA error: an illegal memory access was encountered"})
        if self.fault == "sleep-500":
            return answer(500, {"error": "Memory usage increased after sleeping."})
        if self.fault != "lies":
            self._fall_asleep(model, level)
        return answer(200, {"status": "sleeping", "level": level})

    def _fall_asleep(self, model: FakeModel, level: int) -> None:
        model.sleeping, self.level = True, level
        self.slept += 1
        self._weightless = level == 2
        if level == 1 and not self._pinned:
            self._pinned = self.weights
            model.world.kernel.available -= self.weights
        kept = {"keeps-memory": model.vram, "half": model.vram // 2}.get(self.fault, self.residual)
        self._map(model, kept)

    def _wake(self, model: FakeModel, tags: str) -> Reply:
        if self.fault == "wake-hangs":
            return 3600.0
        if not self._work(f"/wake_up{tags}", self.wake_seconds):
            return self.wake_seconds
        if self.fault == "wake-500":
            return answer(500, {"error": "wake failed"})
        if self.fault == "awake-not":
            return answer(200, {"status": "sleeping"})
        wanted = model.vram if tags != "weights" else min(model.vram, self.mapped + self.weights)
        free = model.world.gpus.total - model.world.gpus.used()
        if wanted - self.mapped > free:
            # No rollback: what is mapped already stays mapped.
            self._map(model, self.mapped + free // 2)
            return answer(500, {"error": "CUDA Error: out of memory at cumem_allocator.cpp"})
        self._map(model, wanted)
        if tags == "weights":
            return answer(200, {"status": "sleeping"})
        model.sleeping, model.paused = False, False
        self.woken += 1
        self.garbled = self.fault == "garbage" or self._weightless
        return answer(200, {"status": "awake"})

    def _map(self, model: FakeModel, size: int) -> None:
        self.mapped = size
        model.world.gpus.hold(self._holder, size)
