"""One machine with a GPU and model servers on it: the fakes tied together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agentd.core.addresses import split_http_socket
from agentd.types import ActiveState

from .clock import FakeClock
from .files import FakeFiles
from .gpus import GIB, FakeGpus
from .journal import FakeJournal
from .kernel import FakeKernel
from .notifier import FakeNotifier
from .ollama import FakeOllama
from .prober import FakeProber, Reply, Request, answer
from .sleep import FakeSleep
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
    sleep: FakeSleep = field(default_factory=FakeSleep)
    text: str = " four, five, six"
    """What comes after any prompt; `texts` first, one for each completion of more than one token."""
    texts: list[str] = field(default_factory=list)
    version: str = "0.33.0"
    api_key: str = ""
    die_loading: tuple[float, int, str] | None = None
    """(seconds after the start, exit status, last journal line): it ends before it is ready."""
    ready: bool = False
    pid: int = 0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def port(self) -> int:
        return 0 if self.socket else urlsplit(self.url).port or 80

    @property
    def socket(self) -> str:
        found = split_http_socket(self.url)
        return found[0] if found is not None else ""

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
        self.sleep.begin(self, holder)
        if self.die_loading is not None:
            seconds, status, line = self.die_loading
            self.timers.append(loop.call_later(seconds, self.crash, status, line))
        if not self.never_ready:
            self.timers.append(loop.call_later(self.load, self._listen))

    def _listen(self) -> None:
        if self.socket:
            self.ready = True
            self.world.kernel.sockets[self.socket] = self.pid
        elif self.world.kernel.port_holder(self.port) is None:
            self.ready = True
            self.world.kernel.listen(self.port, self.pid)
        else:
            self.crash(1, f"OSError: [Errno 98] address already in use ('127.0.0.1', {self.port})")

    def ended(self) -> None:
        self.ready, self.pid = False, 0
        self.sleep.end(self)
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()

    def reply(self, request: Request) -> Reply:
        if not self.ready:
            return None
        if self.silent:
            return 3600.0
        if self.sleep.dead and request.path != "/metrics":
            return answer(503, {"error": "EngineDeadError"})
        path = request.path.partition("?")[0]
        guarded = path.startswith("/v1/")
        if guarded and self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return answer(401, {"error": "Unauthorized"})
        return self._route(path, request)

    def _route(self, path: str, request: Request) -> Reply:
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
            return answer(200, "\n".join(lines + self.sleep.metric(self)) + "\n")
        if path == "/version":
            return answer(200, {"version": self.version})
        if self.dev_mode:
            return self.sleep.answer(self, request)
        return answer(404, {"detail": "Not Found"})

    def _complete(self, served: str, request: Request) -> Reply:
        wanted = request.json.get("model") if isinstance(request.json, dict) else None
        if wanted != served:
            return answer(404, {"error": {"message": f"The model `{wanted}` does not exist."}})
        if self.paused:
            return answer(503, {"error": {"code": "engine_paused"}})
        if self.sleeping:
            return 3600.0  # Accepted, queued, and never answered.
        if self.canary != 200:
            return answer(self.canary, {"error": {"message": "internal error"}})
        text = self.text
        if self.texts and request.json.get("max_tokens", 1) > 1:
            text = self.texts.pop(0)
        if self.sleep.garbled:
            text = "!!!!!!!!"
        return answer(200, {"model": served, "choices": [{"text": text, "message": {"content": text}}]})


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
        self,
        name: str,
        port: int,
        *,
        unit: str = "",
        url: str = "",
        behaviour: Behaviour | None = None,
        **settings: Any,
    ) -> FakeModel:
        """A unit `vllm-NAME.service` and the server behind it; `settings` are fields of FakeModel. `url`: that of a
        unix socket, instead of the port."""
        unit = unit or f"vllm-{name}.service"
        model = FakeModel(name, unit, url or f"http://127.0.0.1:{port}", self, **settings)
        self.models[name] = self._by_unit[unit] = model
        self.units.add(unit, behaviour or Behaviour(comm="vllm"))
        self.prober.serve(model.url, model.reply)
        return model

    def add_ollama(self, port: int = 11434, unit: str = "ollama.service") -> FakeOllama:
        ollama = FakeOllama(unit, f"http://127.0.0.1:{port}", self)
        self.units.add(unit, Behaviour(comm="ollama"), active=True)
        self.units.on_death.append(lambda died: ollama.ended() if died == unit else None)
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

    def guarded(self) -> None:
        """What the drop-ins do where models may sleep: a start stops the others that are up and awake."""
        self.exclusive()
        for model in self.models.values():
            self.units.change(model.unit, conflicts=frozenset())
        self.units.guard = self._rivals

    def _rivals(self, unit: str) -> frozenset[str]:
        """Up, or about to be: a unit whose guard is at work is "activating" already."""
        rivals = [m for m in self.models.values() if m.unit != unit]
        found = [m for m in rivals if self.units.units[m.unit].job or self.units.state(m.unit).active_state.up]
        return frozenset(m.unit for m in found if not m.sleeping)

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
