"""A runtime as a service: of the system or in a container it is probed alone; cpu_only is a drop-in; what is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeFiles, FakeWorld, answer
from fakes.cli import Run
from fakes.serving import Served

from agentd.adapters.kernel import LinuxKernel
from agentd.core import dropin
from agentd.core.ollama import OFF_GPU
from agentd.core.profile import profile_of
from agentd.core.schema import Runtime, Seconds, Service, Settings
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.managers.dropins import DropinsManager
from agentd.managers.units.manager import UnitsManager
from agentd.managers.units.watch import UnitPorts
from agentd.runtimes import RuntimeModel, RuntimeStatus
from agentd.types import ActiveState, Health, ServiceStatus

GIB = 1024**3
URL = "http://127.0.0.1:11434"
DIR = "/home/user/.config/systemd/user"


def ollama(policy: str = "evict", managed: str = "unit") -> Service:
    runtime = Runtime(policy=policy, managed=managed, watch_every=Seconds(5.0))  # type: ignore[arg-type]
    return Service(unit="ollama.service", role="runtime", url=URL, runtime=runtime)


# -- supervised from outside ----------------------------------------------------------------------------------------


class Outside:
    """The supervision of an Ollama that is no unit of ours; `status` is what it answers, 0 nothing."""

    def __init__(self, managed: str) -> None:
        self.world = FakeWorld()
        self.board = World(self.world.clock)
        self.answers = 200
        self.world.prober.serve(URL, lambda request: answer(self.answers) if self.answers else None)
        events = EventLog(self.world.store, self.world.clock)
        w = self.world
        ports = UnitPorts(w.units, w.kernel, w.prober, w.journal, w.clock)
        self.manager = UnitsManager(ports, events, self.board, lambda: None, lambda _: False, self._restart)
        self.settings = Settings(services={"ollama": ollama(managed=managed)})

    async def _restart(self, name: str) -> None:
        raise AssertionError(name)

    async def begin(self) -> None:
        await self.manager.apply(self.settings)
        await self.manager.ensure()

    async def after(self, seconds: float) -> ServiceStatus:
        await self.world.clock.advance(seconds)
        await self.manager.ensure()
        found = self.board.service("ollama")
        assert found is not None
        return found


@pytest.mark.parametrize("managed", ["system", "container"])
async def test_what_is_not_our_managers_is_judged_by_its_answers(managed: str) -> None:
    it = Outside(managed)
    await it.begin()
    status = await it.after(1)
    assert (status.health, status.active_state, status.sub_state) == (Health.READY, ActiveState.ACTIVE, "probed")
    it.answers = 0
    status = await it.after(60)
    assert (status.health, status.active_state) == (Health.UNREADY, ActiveState.UNKNOWN)
    assert "connection refused" in status.cause
    it.answers = 200
    assert (await it.after(15)).health is Health.READY
    await it.manager.close()


async def test_one_that_never_answered_is_not_called_missing() -> None:
    it = Outside("system")
    it.answers = 0
    await it.begin()
    status = await it.after(0.1)
    assert (status.health, status.active_state) == (Health.UNKNOWN, ActiveState.UNKNOWN)
    assert status.cause == "ollama has not answered yet"
    await it.manager.close()


async def test_systemd_is_not_asked_for_it() -> None:
    it = Outside("system")
    await it.manager.apply(it.settings)
    it.world.units.drop_bus()
    await it.manager.ensure()
    assert (await it.after(1)).health is Health.READY
    await it.manager.close()


def test_it_is_not_hardened() -> None:
    assert profile_of(ollama()) == "gpu"
    assert profile_of(ollama(managed="system")) == "none"


# -- the drop-in ----------------------------------------------------------------------------------------------------


async def installed(*services: Service) -> tuple[DropinsManager, FakeFiles]:
    world = FakeWorld()
    world.units.add("ollama.service")
    events = EventLog(world.store, world.clock)
    manager = DropinsManager(world.units, world.files, events, unit_dir=DIR, agentctl="agentctl")
    world.units.change(
        "ollama.service", dropin_paths=(f"{DIR}/{dropin.path_of('ollama.service', dropin.Purpose.CPU_ONLY)}",)
    )
    await manager.apply(Settings(services={f"s{n}": service for n, service in enumerate(services)}))
    return manager, world.files


async def test_cpu_only_is_a_drop_in_that_a_change_of_policy_takes_away() -> None:
    manager, files = await installed(ollama("cpu_only"))
    (path,) = files.texts
    assert path == f"{DIR}/ollama.service.d/90-agentd-cpu-only.conf"
    for name in OFF_GPU:
        assert f"Environment={name}=-1\n" in files.texts[path]
    assert manager.findings() == ()
    await manager.apply(Settings(services={"ollama": ollama("evict")}))
    assert files.texts == {}


@pytest.mark.parametrize("managed", ["system", "container"])
async def test_nothing_is_written_for_a_unit_that_is_not_ours(managed: str) -> None:
    _, files = await installed(ollama("cpu_only", managed))
    assert files.texts == {}


# -- the environment of a process -----------------------------------------------------------------------------------


def test_variables_of_a_process_and_no_others() -> None:
    kernel = LinuxKernel()
    code = "import sys; print(flush=True); sys.stdin.read()"
    env = {"CUDA_VISIBLE_DEVICES": "-1", "SECRET": "hunter2", "EMPTY": ""}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], env=env, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = kernel.variables(child.pid, ("CUDA_VISIBLE_DEVICES", "EMPTY", "MISSING"))
        child.kill()
    assert found == {"CUDA_VISIBLE_DEVICES": "-1", "EMPTY": ""}
    assert kernel.variables(child.pid, ("EMPTY",)) is None
    assert kernel.variables(0, ("EMPTY",)) is None


def test_variables_that_are_not_ours_to_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    assert LinuxKernel(str(tmp_path)).variables(7, ("HOME",)) is None
    assert LinuxKernel().variables(os.getpid(), ("NO_SUCH_VARIABLE",)) == {}


# -- what a person sees ---------------------------------------------------------------------------------------------


def test_status_shows_what_is_loaded_where(server: Served, run: Run) -> None:
    partial = RuntimeModel("big", 8 * GIB, 6 * GIB)
    models = (RuntimeModel("llama3:8b", 5 * GIB, 5 * GIB), partial, RuntimeModel("cpu", GIB))
    found = [
        RuntimeStatus("ollama", "ollama.service", URL, "evict", "unit", True, "0.24.0", models),
        RuntimeStatus("idle", "idle.service", URL, "ignore", "system", True, ""),
        RuntimeStatus("down", "down.service", URL, "evict", "unit", False, error="connection refused"),
    ]
    server.call(lambda ops: ops.runtime_list.extend(found))
    out = run("status").out
    assert (
        "runtime ollama 0.24.0 (evict): llama3:8b on the GPU (5.0 GiB), big on the GPU (6.0 GiB of 8.0 GiB), "
        "cpu on the CPU\n"
    ) in out
    assert "runtime idle (ignore): nothing loaded\n" in out
    assert "runtime down" not in out
    (first, *_) = run("status", "--json").json["runtimes"]
    assert first["models"][0]["size_vram"] == 5 * GIB
