"""One machine with a GPU and model servers on it: the fakes tied together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agentd.ports import HttpAnswer
from agentd.types import ActiveState

from .clock import FakeClock
from .files import FakeFiles
from .gpus import GIB, FakeGpus
from .journal import FakeJournal
from .kernel import FakeKernel
from .notifier import FakeNotifier
from .prober import FakeProber, Reply, Request, answer
from .store import FakeStore
from .units import Behaviour, FakeUnits
from .weights import FakeWeights


@dataclass
class FakeModel:
    """A model server; its fields are settings that may be changed at any time."""

    name: str
    unit: str
    url: str
    world: FakeWorld
    load: float = 30.0
    """Seconds from the process's start until the port listens."""
    vram: int = 16 * GIB
    served: str = ""
    running: int = 0
    """Requests that its metrics show as running; `waiting` likewise."""
    waiting: int = 0
    never_ready: bool = False
    health: int = 200
    canary: int = 200
    silent: bool = False
    """Accepts and never answers."""
    metrics: bool = True
    dev_mode: bool = False
    """/pause, /resume, /sleep, /wake_up, /is_sleeping and /is_paused exist."""
    paused: bool = False
    sleeping: bool = False
    api_key: str = ""
    die_loading: tuple[float, int, str] | None = None
    """(seconds after the start, exit status, last journal line): it ends before it is ready."""
    ready: bool = False
    pid: int = 0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    @property
    def behaviour(self) -> Behaviour:
        return self.world.units.units[self.unit].behaviour

    def crash(self, status: int = 1, line: str = "", *, result: str = "") -> None:
        """Ends by itself; the last journal line may say why."""
        if line:
            self.world.journal.say(self.unit, line, invocation=self.world.units.state(self.unit).invocation_id)
        self.world.units.die(self.unit, status=status, result=result)

    def started(self, pid: int) -> None:
        self.pid, self.ready, self.paused, self.sleeping = pid, False, False, False
        loop = asyncio.get_running_loop()
        holder = self.world.units.units[self.unit].pids[-1]
        self.world.gpus.hold(holder, self.vram)
        if self.die_loading is not None:
            seconds, status, line = self.die_loading
            self.timers.append(loop.call_later(seconds, self.crash, status, line))
        if not self.never_ready:
            self.timers.append(loop.call_later(self.load, self._listen))

    def _listen(self) -> None:
        if self.world.kernel.port_holder(self.port) is None:
            self.ready = True
            self.world.kernel.listen(self.port, self.pid)
        else:
            self.crash(1, f"OSError: [Errno 98] address already in use ('127.0.0.1', {self.port})")

    def ended(self) -> None:
        self.ready, self.pid = False, 0
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()

    def reply(self, request: Request) -> Reply:
        if not self.ready:
            return None
        if self.silent:
            return 3600.0
        path = request.path.partition("?")[0]
        guarded = path.startswith("/v1/")
        if guarded and self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return answer(401, {"error": "Unauthorized"})
        return self._route(path, request)

    def _route(self, path: str, request: Request) -> HttpAnswer:
        served = self.served or self.name
        if path == "/health":
            return answer(self.health)
        if path == "/v1/models":
            return answer(200, {"object": "list", "data": [{"id": served, "object": "model"}]})
        if path in ("/v1/completions", "/v1/chat/completions"):
            return self._complete(served, request)
        if path == "/metrics" and self.metrics:
            counts = (("running", self.running), ("waiting", self.waiting))
            lines = [f'vllm:num_requests_{key}{{engine="0",model_name="{served}"}} {n}.0' for key, n in counts]
            return answer(200, "\n".join(lines) + "\n")
        if self.dev_mode:
            return self._dev(path)
        return answer(404, {"detail": "Not Found"})

    def _complete(self, served: str, request: Request) -> HttpAnswer:
        wanted = request.json.get("model") if isinstance(request.json, dict) else None
        if wanted != served:
            return answer(404, {"error": {"message": f"The model `{wanted}` does not exist."}})
        if self.paused:
            return answer(503, {"error": {"code": "engine_paused"}})
        if self.canary != 200:
            return answer(self.canary, {"error": {"message": "internal error"}})
        return answer(200, {"model": served, "choices": [{"text": "a", "message": {"content": "a"}}]})

    def _dev(self, path: str) -> HttpAnswer:
        if path in ("/pause", "/resume"):
            self.paused = path == "/pause"
            return answer(200, {"status": "paused" if self.paused else "resumed"})
        if path in ("/sleep", "/wake_up"):
            self.sleeping = path == "/sleep"
            self.paused = self.paused and self.sleeping
            self.world.gpus.hold(self.pid, GIB if self.sleeping else self.vram)
            return answer(200, {"status": "sleeping" if self.sleeping else "awake"})
        flags: dict[str, Any] = {"/is_sleeping": self.sleeping, "/is_paused": self.paused}
        return answer(200, {path[1:]: flags[path]}) if path in flags else answer(404)


@dataclass
class FakeOllama:
    """/api/ps and unloading by keep_alive 0; `loaded` maps model -> bytes of GPU memory."""

    unit: str
    url: str
    world: FakeWorld
    loaded: dict[str, int] = field(default_factory=dict)
    unload_seconds: float = 0.5
    stubborn: bool = False
    pids: dict[str, int] = field(default_factory=dict)

    def load(self, model: str, size: int) -> None:
        self.loaded[model] = size
        self.pids[model] = self.world.kernel.spawn("ollama", unit=self.unit, control_group=f"/app.slice/{self.unit}/r")
        self.world.gpus.hold(self.pids[model], size)

    def reply(self, request: Request) -> Reply:
        if request.path == "/api/ps":
            models = [{"name": name, "model": name, "size_vram": size} for name, size in self.loaded.items()]
            return answer(200, {"models": models})
        if request.path in ("/api/generate", "/api/chat") and isinstance(request.json, dict):
            if request.json.get("keep_alive") == 0 and not self.stubborn:
                asyncio.get_running_loop().call_later(self.unload_seconds, self._unload, request.json.get("model"))
            return answer(200, {"done": True, "done_reason": "unload"})
        return answer(200 if request.path in ("/", "/api/version") else 404, "Ollama is running")

    def _unload(self, model: str) -> None:
        if self.loaded.pop(model, None) is not None:
            self.world.kernel.exit(self.pids.pop(model))


class FakeWorld:
    """Create inside the loop. The parts are public: clock, kernel, gpus, units, prober, journal, store, files,
    notifier."""

    def __init__(self, clock: FakeClock | None = None, *, gpu_memory: int = 24 * GIB) -> None:
        self.clock = clock or FakeClock()
        self.kernel = FakeKernel()
        self.gpus = FakeGpus(gpu_memory, clock=self.clock.time)
        self.units = FakeUnits(self.kernel, clock=self.clock.time)
        self.prober = FakeProber()
        self.journal = FakeJournal()
        self.store = FakeStore()
        self.files = FakeFiles()
        self.weights = FakeWeights()
        self.notifier = FakeNotifier()
        self.models: dict[str, FakeModel] = {}
        self._by_unit: dict[str, FakeModel] = {}
        self.kernel.exit_listeners.append(self.gpus.release)
        self.units.on_start.append(self._started)
        self.units.on_death.append(self._died)

    def add_model(
        self, name: str, port: int, *, unit: str = "", behaviour: Behaviour | None = None, **settings: Any
    ) -> FakeModel:
        """A unit `vllm-NAME.service` and the server behind it; `settings` are fields of FakeModel."""
        unit = unit or f"vllm-{name}.service"
        model = FakeModel(name, unit, f"http://127.0.0.1:{port}", self, **settings)
        self.models[name] = self._by_unit[unit] = model
        self.units.add(unit, behaviour or Behaviour(comm="vllm"))
        self.prober.serve(model.url, model.reply)
        return model

    def add_ollama(self, port: int = 11434, unit: str = "ollama.service") -> FakeOllama:
        ollama = FakeOllama(unit, f"http://127.0.0.1:{port}", self)
        self.units.add(unit, Behaviour(comm="ollama"), active=True)
        self.prober.serve(ollama.url, ollama.reply)
        return ollama

    def serve_at_once(self, name: str) -> None:
        """The model is up and ready as if it had been so for long."""
        model = self.models[name]
        unit = self.units.units[model.unit]
        self.units._spawn(unit)
        self.units.change(
            model.unit, active_state=ActiveState.ACTIVE, sub_state="running", active_since=self.clock.time()
        )
        for timer in model.timers:
            timer.cancel()
        model.timers.clear()
        model._listen()

    def exclusive(self, *names: str) -> None:
        """Conflicts= both ways and After= on the earlier ones, as the drop-ins have it."""
        units = sorted(self.models[name].unit for name in (names or self.models))
        for index, unit in enumerate(units):
            others = frozenset(units) - {unit}
            self.units.change(unit, conflicts=others, after=frozenset(units[:index]))

    def serving(self) -> list[str]:
        """Names of the models that answer now."""
        return sorted(name for name, model in self.models.items() if model.ready)

    def holders(self) -> list[str]:
        """Units of the processes that hold GPU memory now."""
        return sorted({self.kernel.unit_of(pid) for pid in self.gpus.holders} - {""})

    def _started(self, unit: str, pid: int) -> None:
        if unit in self._by_unit:
            self._by_unit[unit].started(pid)

    def _died(self, unit: str) -> None:
        if unit in self._by_unit:
            self._by_unit[unit].ended()
