"""A gateway made of fakes: two LiteLLM units that read their files when they start, and agentd's actions on them.

`world.cut(n, *victims)` makes the accident happen at the n-th boundary: before and after every write of the journal and
every effect. `Dead` is agentd's own end. All in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.section import Absentee, Section
from agentd.core.schema_gateway import GatewayPolicy
from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.engine.steps import Steps
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.managers.gateway.actions import ActionParts, GatewayActions
from agentd.managers.gateway.context import FileText, Gateway, GatewayPorts
from agentd.ports_gateway import Endpoint, ProxyState, SourceSet, Version
from agentd.types import ActiveState, Change, UnitState

from .clock import FakeClock
from .files import FakeFiles
from .journal import FakeJournal
from .kernel import FakeKernel
from .store import FakeStore
from .units import CLD_KILLED, SIGKILL, Behaviour, FakeJob, FakeUnits

T = TypeVar("T")

MAIN, STANDBY, SOCKET = "litellm.service", "litellm-standby.service", "litellm.socket"
KEY = "sk-the-key"
SIGUSR1 = 10
MOVING = (ActiveState.ACTIVATING, ActiveState.DEACTIVATING)
AGENTD = "agentd"


class Dead(BaseException):
    """agentd is cut off here."""


def config(digest: str, *models: str, bad: Sequence[str] = ()) -> str:
    """A generated file. `bad`: units that do not start with it."""
    return json.dumps({"digest": digest, "models": sorted(models), "bad": list(bad)})


def read(text: str) -> FileText:
    try:
        found = json.loads(text)
    except ValueError:
        raise AgentdError("yaml-syntax", "cannot read the file: it is no YAML") from None
    if "models" not in found:
        return FileText("", False, None)
    slots = tuple(Absentee(name, name, "gpu0", "fallback") for name in found["models"])
    return FileText(found["digest"], bool(found.get("edited")), Section(tuple(found["models"]), slots, "MASTER"))


class LitellmUnits(FakeUnits):
    """SIGUSR1 makes the standby accept; `list` tells of queued jobs."""

    def __init__(self, kernel: FakeKernel, clock: FakeClock) -> None:
        super().__init__(kernel, clock=clock.time)
        self.shared = False

    async def kill(self, unit: str, signal: int) -> None:
        if signal == SIGUSR1:
            await self._enter("kill", unit)
            self.shared = self.state(unit).active_state is ActiveState.ACTIVE
            return
        await super().kill(unit, signal)

    async def list(self, units: Sequence[str]) -> Mapping[str, UnitState]:
        from dataclasses import replace

        found = await super().list(units)
        jobs = {name: unit.job.kind for name, unit in self.units.items() if unit.job is not None}
        return {name: replace(state, job=jobs.get(name, "")) for name, state in found.items()}


@dataclass
class FakePlan:
    rendered: Rendered | None
    current: str | None
    problems: tuple[Problem, ...] = ()
    delta: str = "-a\n+b\n"
    edited: bool = False

    @property
    def up_to_date(self) -> bool:
        return self.rendered is not None and self.rendered.text == self.current


class FakeGatewayFiles:
    def __init__(self, text: str | None, clock: FakeClock) -> None:
        self.text = text
        self.candidate: str | None = None
        self.kept: list[tuple[Version, str]] = []
        self.variables = {"MASTER": KEY}
        self.refuse: AgentdError | None = None
        self._clock = clock

    async def sources(self) -> SourceSet:
        return SourceSet("/sources", {}, {})

    async def generated(self) -> str | None:
        await asyncio.sleep(0)
        return self.text

    async def write(self, text: str) -> Version | None:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        before, self.text = self.text, text
        if before is None or before == text:
            return None
        version = Version(f"v{len(self.kept)}", self._clock.time(), json.loads(before)["digest"], "")
        self.kept.insert(0, (version, before))
        return version

    async def write_candidate(self, text: str) -> str:
        await asyncio.sleep(0)
        self.candidate = text
        return "/candidate.yaml"

    async def remove_candidate(self) -> None:
        await asyncio.sleep(0)
        self.candidate = None

    async def versions(self) -> Sequence[Version]:
        return [version for version, _ in self.kept]

    async def version_text(self, version: str) -> str:
        found = next((text for known, text in self.kept if known.id == version), None)
        if found is None:
            raise AgentdError("version-not-found", f"there is no version {version}")
        return found

    async def environment(self) -> Mapping[str, str]:
        return dict(self.variables)


class FakeProxy:
    """Answers for the processes of the world."""

    def __init__(self, world: GatewayWorld) -> None:
        self._world = world
        self.exposition = ""
        self.open = False
        self.more: tuple[str, ...] = ()
        """Further models that it lists."""
        self.asked: list[str] = []
        self.keyless = 0
        """Questions without a key."""

    async def look(self, endpoint: Endpoint, key: str, *, timeout: float, keyless: bool = True) -> ProxyState:
        await asyncio.sleep(0)
        self.asked.append(endpoint.socket or endpoint.url)
        world = self._world
        unit = {"/run/litellm.sock": MAIN, "/run/standby.sock": STANDBY}.get(endpoint.socket, "")
        if not endpoint.socket:
            acceptors = world.acceptors()
            unit = acceptors[0] if acceptors else ""
        if not unit or not world.answers(unit) or (endpoint.socket and not world.controlled):
            return ProxyState(False, error="connection refused")
        self.keyless += keyless
        digest, models = world.runs[unit]
        listed = tuple(sorted((*models, *self.more)))
        right = key == KEY
        told: dict[str, Any] = {}
        if endpoint.socket:
            shared = unit == MAIN or world.units.shared
            told = {"digest": digest, "pid": world.units.state(unit).main_pid, "shared": shared, "version": "1.106.2"}
        opened = (200 if self.open else 401) if keyless else 0
        return ProxyState(True, listed if right or opened == 200 else (), 200 if right else 400, opened, **told)

    async def metrics(self, endpoint: Endpoint, key: str, *, timeout: float) -> str:
        await asyncio.sleep(0)
        return self.exposition


class FakeScratch:
    """ScratchProxies: one that reads the candidate."""

    def __init__(self, world: GatewayWorld) -> None:
        self._world = world
        self.endpoint = Endpoint("http://127.0.0.1:5999")
        self.pid = 77
        self.running = False

    async def start(
        self, config: str, environment: Mapping[str, str], *, timeout: float, plain: bool = False
    ) -> FakeScratch:
        assert environment["MASTER"] == KEY
        await asyncio.sleep(10)
        if "scratch" in json.loads(self._world.files.candidate or "{}")["bad"]:
            raise AgentdError("gateway-start", "LiteLLM exited with status 3: bad config")
        self.running = True
        self._world.runs["scratch"] = self._world.parsed(self._world.files.candidate)
        return self

    def log(self, lines: int = 50) -> tuple[str, ...]:
        return ()

    async def stop(self) -> None:
        self.running = False


@dataclass
class GatewayWorld:
    """`blue_green` False: without socket and standby."""

    blue_green: bool = True
    controlled: bool = True
    """Its processes have control sockets."""
    old: str | None = field(default_factory=lambda: config("old", "qwen"))
    new: str = field(default_factory=lambda: config("new", "dolphin", "qwen"))

    victims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.clock = FakeClock(limit=86400.0)
        self.kernel = FakeKernel()
        self.units = LitellmUnits(self.kernel, self.clock)
        self.store, self.journal, self.runtime = FakeStore(), FakeJournal(), FakeFiles()
        self.files = FakeGatewayFiles(self.old, self.clock)
        self.proxy, self.scratch = FakeProxy(self), FakeScratch(self)
        self.runs: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.boundary, self.at = 0, -1
        self.unserved = 0
        """Moments in which nobody accepted, while `watching`."""
        self.watching = False
        self.units.on_start.append(self._reads)
        self.units.on_death.append(self._died)
        start = Behaviour(start_seconds=10.0, stop_seconds=2.0, restart=True, restart_seconds=3.0)
        self.units.add(MAIN, start, active=self.old is not None)
        if self.blue_green:
            self.units.add(STANDBY, Behaviour(start_seconds=10.0, stop_seconds=2.0))
            self.units.add(SOCKET, active=True)
        self.store.before_save = self.store.after_save = lambda _: self.step()
        self.plan = FakePlan(self._rendered(self.new), self.old)
        self.begin()

    def begin(self) -> None:
        """agentd, anew, on what is there."""
        self.world = World(self.clock)
        events, self.changes = EventLog(self.store, self.clock), ChangeBook(self.store)
        effects = ("start", "stop", "restart", "kill", "reset_failed")
        self.ports = GatewayPorts(
            _Cut(self.units, effects, self.step),
            self.kernel,
            self.journal,
            self.clock,
            self.proxy,
            self.runtime,
            "/run/routes.json",
            aside,
            read,
            lambda _: self.scratch,
        )
        self.events = events
        self.actions = GatewayActions(
            ActionParts(self.ports, Steps(self.store, self.changes, events, self.clock), lambda _: free())
        )

    def gateway(self, **policy: Any) -> Gateway:
        files = _Cut(self.files, ("write", "write_candidate", "remove_candidate"), self.step)
        planner = _Planner(self)
        return Gateway(
            "litellm",
            MAIN,
            "http://127.0.0.1:4001",
            GatewayPolicy(**policy),
            files,
            planner,
            planner,
            "/run",
        )

    # -- what a test asks -----------------------------------------------------------------------------------------

    def answers(self, unit: str) -> bool:
        if unit == "scratch":
            return self.scratch.running
        return self.units.state(unit).active_state is ActiveState.ACTIVE and unit in self.runs

    def acceptors(self) -> list[str]:
        if self.scratch.running:
            return ["scratch"]
        standby = [STANDBY] if self.units.shared and self.answers(STANDBY) else []
        return [*([MAIN] if self.answers(MAIN) else []), *standby]

    def parsed(self, text: str | None) -> tuple[str, tuple[str, ...]]:
        found = json.loads(text or '{"digest": "", "models": []}')
        return found["digest"], tuple(found["models"])

    async def until_rest(self, seconds: float = 600.0) -> None:
        """systemd has done what it does by itself, and so has agentd."""
        async with asyncio.timeout(seconds):
            while self.actions.running() or any(
                unit.job is not None or unit.state.active_state in MOVING for unit in self.units.units.values()
            ):
                await self.clock.sleep(0.5)

    # -- accidents --------------------------------------------------------------------------------------------

    def cut(self, at: int, *victims: str) -> None:
        self.boundary, self.at, self.victims = 0, at, victims

    def step(self) -> None:
        self.boundary += 1
        if self.boundary != self.at:
            return
        for victim in self.victims:
            if victim != AGENTD:
                self.units.die(victim, status=SIGKILL, code=CLD_KILLED)
        if AGENTD in self.victims:
            raise Dead

    # -- inside -----------------------------------------------------------------------------------------------

    def _reads(self, unit: str, _: int) -> None:
        """At its start it reads its file, and does not come up with a bad one."""
        if unit == SOCKET:
            return
        if unit == STANDBY:
            self.units.shared = False
        text = self.files.candidate if unit == STANDBY else self.files.text
        self.runs[unit] = self.parsed(text)
        bad = text is None or unit in json.loads(text).get("bad", ())
        self.units.units[unit].behaviour.exit_on_start = 3 if bad else None
        # Exit status 3 is not restarted (RestartPreventExitStatus=).
        self.units.units[unit].behaviour.restart = unit == MAIN and not bad

    def _died(self, unit: str) -> None:
        self.runs.pop(unit, None)
        if unit == STANDBY:
            self.units.shared = False
        if self.watching and not self.acceptors():
            self.unserved += 1

    @staticmethod
    def _rendered(text: str) -> Rendered:
        found = json.loads(text)
        return Rendered(text, found["digest"], tuple(found["models"]))


class _Planner:
    def __init__(self, world: GatewayWorld) -> None:
        self._world = world

    async def plan(self) -> FakePlan:
        await asyncio.sleep(0)
        self._world.plan.current = self._world.files.text
        return self._world.plan


class _Cut:
    """Everything of `inner`; around the named coroutines `step()` is called."""

    def __init__(self, inner: object, names: Sequence[str], step: Callable[[], None]) -> None:
        self._inner = inner
        self._names = names
        self._step = step

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        async def around(*arguments: Any) -> Any:
            self._step()
            result = await found(*arguments)
            self._step()
            return result

        return around


async def aside(work: Callable[[], T]) -> T:
    await asyncio.sleep(0)
    return work()


@contextlib.asynccontextmanager
async def free() -> AsyncIterator[None]:
    yield


async def ended(task: asyncio.Task[Change]) -> Change | None:
    """None when agentd died in it."""
    try:
        return await task
    except Dead:
        return None


__all__ = ["FakeJob", "GatewayWorld"]
