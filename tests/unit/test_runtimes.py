"""The watch over Ollama, in virtual time: what it has loaded, what it loads again, how seldom it is asked when down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import FakeWorld, answer
from fakes.ollama import FakeOllama
from fakes.rig import settings as base

from agentd.core import ollama as parsing
from agentd.core.schema import Runtime, Seconds, Service, Settings
from agentd.engine.counters import Counters
from agentd.engine.events import EventLog
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.managers.models.eviction import POLICIES
from agentd.managers.runtimes.manager import RuntimesManager, refuse_outside
from agentd.metrics.counted import FAMILIES
from agentd.metrics.runtimes import runtimes
from agentd.metrics.view import MetricsView
from agentd.runtimes import RuntimeModel, RuntimeStatus
from agentd.types import ActiveState, Health, Role, ServiceStatus, SlotStatus

GIB = 1024**3
LLAMA = "llama3:8b"
URL = "http://127.0.0.1:11434"


def configured(**runtime: object) -> Settings:
    made = base()
    spec = Runtime(**{"watch_every": Seconds(5.0), **runtime})  # type: ignore[arg-type]
    service = Service(unit="ollama.service", role="runtime", url=URL, runtime=spec)
    return Settings(slots=made.slots, services={**made.services, "ollama": service})


@dataclass
class Rig:
    world: FakeWorld
    ollama: FakeOllama
    manager: RuntimesManager
    board: World
    events: EventLog
    counters: Counters

    @property
    def status(self) -> RuntimeStatus:
        return next(s for s in self.board.runtimes if s.name == "ollama")

    async def unit(self, active: ActiveState = ActiveState.ACTIVE, pid: int = 4711) -> None:
        """The supervision has read its unit."""
        health = Health.READY if active is ActiveState.ACTIVE else Health.STOPPED
        up = active is ActiveState.ACTIVE
        self.board.put_service(
            ServiceStatus("ollama", Role.RUNTIME, "ollama.service", health, active_state=active, main_pid=pid * up)
        )
        await self.manager.ensure()
        await self.pause(0.1)

    def slot(self, state: str, resident: str | None = "qwen", change: str | None = None) -> None:
        self.board.put_slot(SlotStatus("gpu0", state, ("qwen", "dolphin"), resident, change=change))

    async def pause(self, seconds: float = 6.0) -> None:
        await self.world.clock.advance(seconds)

    def told(self) -> list[str]:
        return [e.message for e in self.events.recent(100) if e.kind == "runtime.reloaded"]

    def finding(self) -> Finding:
        (found,) = self.manager.findings()
        return found

    async def close(self) -> None:
        await self.manager.close()


async def rig(**runtime: object) -> Rig:
    world = FakeWorld()
    ollama = world.add_ollama()
    events, board, counters = EventLog(world.store, world.clock), World(world.clock), Counters()
    manager = RuntimesManager(world.prober, world.kernel, world.clock, events, board, counters)
    await manager.apply(configured(**runtime))
    return Rig(world, ollama, manager, board, events, counters)


# -- what is seen ---------------------------------------------------------------------------------------------------


async def test_what_is_loaded_is_shown_with_sizes_and_version() -> None:
    r = await rig()
    assert r.status == RuntimeStatus("ollama", "ollama.service", URL, "evict", "unit")
    await r.unit()
    r.ollama.load(LLAMA)
    await r.pause()
    assert (r.status.reachable, r.status.version, r.status.error) == (True, "0.24.0", "")
    (model,) = r.status.models
    assert (model.name, model.size, model.size_vram) == (LLAMA, 5 * GIB, 5 * GIB)
    assert model.expires == pytest.approx(r.ollama.expires[LLAMA], abs=0.001)
    assert r.status.observed > 0
    await r.close()


async def test_a_unit_that_does_not_run_is_not_asked() -> None:
    r = await rig()
    await r.unit(ActiveState.INACTIVE)
    await r.pause(600)
    assert r.ollama.asked == []
    assert r.status.reachable is None
    await r.unit()
    assert r.status.reachable is True, "as soon as it runs"
    await r.unit(ActiveState.INACTIVE)
    assert (r.status.reachable, r.status.models) == (None, ())
    asked = len(r.ollama.asked)
    await r.pause(600)
    assert len(r.ollama.asked) == asked
    await r.close()


async def test_one_that_does_not_answer_is_asked_at_growing_intervals() -> None:
    r = await rig(managed="system")
    requests = r.world.prober.requests
    r.ollama.gone = True
    await r.pause(3600)
    assert r.status.reachable is False
    assert "connection refused" in r.status.error
    assert 60 <= len(requests) <= 66, "once a minute in the end"
    r.ollama.gone = False
    await r.pause(61)
    assert (r.status.reachable, r.status.error) == (True, "")
    before = len(requests)
    await r.pause(60)
    assert 11 <= len(requests) - before <= 13, "every five seconds again"
    await r.close()


async def test_a_restarted_unit_is_asked_at_once_also_after_failures_and_for_its_version() -> None:
    r = await rig()
    r.ollama.gone = True
    await r.unit(pid=1)
    await r.pause(600)
    r.ollama.gone, r.ollama.version = False, "0.30.1"
    await r.unit(pid=2)
    assert (r.status.reachable, r.status.version) == (True, "0.30.1")
    await r.close()


@pytest.mark.parametrize("reply", ["<html>", '{"models": [{}]}', answer(404, "404 page not found"), 3600.0])
async def test_a_bad_answer_is_an_error_and_no_end(reply: object) -> None:
    r = await rig()
    r.ollama.load(LLAMA)
    await r.unit()
    r.ollama.ps = reply  # type: ignore[assignment]
    await r.pause(30)
    assert r.status.reachable is False
    assert r.status.error
    assert r.status.models == ()
    r.ollama.ps = ""
    await r.pause(61)
    assert [m.name for m in r.status.models] == [LLAMA]
    await r.close()


async def test_a_new_configuration_replaces_the_watch_and_forgets_what_is_gone() -> None:
    r = await rig()
    await r.unit()
    await r.manager.apply(configured(policy="ignore"))
    await r.unit()
    assert (r.status.policy, r.status.reachable) == ("ignore", True)
    await r.manager.apply(base())
    made = base()
    del made.services["ollama"]
    await r.manager.apply(made)
    assert r.board.runtimes == ()
    asked = len(r.ollama.asked)
    await r.pause(60)
    assert len(r.ollama.asked) == asked
    await r.close()


# -- what is loaded while a model is resident -----------------------------------------------------------------------


async def test_a_model_that_comes_back_beside_a_resident_one_is_told_once_and_left_alone() -> None:
    r = await rig()
    r.slot("active")
    await r.unit()
    await r.pause()
    r.ollama.load(LLAMA)
    await r.pause(60)
    assert r.told() == ["ollama has loaded llama3:8b (5G of GPU memory) while qwen is resident"]
    assert r.counters.snapshot() == {("agentd_runtime_reload", ("ollama",)): 1}
    assert "/api/generate" not in r.ollama.asked
    r.ollama._unload(LLAMA)
    await r.pause()
    r.ollama.load(LLAMA)
    await r.pause()
    assert len(r.told()) == 2, "another stay"
    await r.close()


async def test_what_was_there_when_agentd_came_is_no_news() -> None:
    r = await rig()
    r.slot("active")
    r.ollama.load(LLAMA)
    await r.unit()
    await r.pause(60)
    assert r.told() == []
    await r.close()


async def test_what_an_eviction_unloaded_is_news_when_it_is_back() -> None:
    """The look before the change and the one at its end show the same model: it was away between the two."""
    r = await rig(watch_every=Seconds(30.0))
    r.slot("active")
    r.ollama.load(LLAMA)
    await r.unit()
    for state in ("precheck", "evict"):
        r.slot(state, change="s1")
    r.ollama._unload(LLAMA)
    r.slot("wait-vram", change="s1")
    await r.pause(0.1)
    r.ollama.load(LLAMA)
    r.slot("start", change="s1")
    await r.pause(0.1)
    assert r.told() == [], "nobody is resident yet"
    r.slot("active", "dolphin")
    await r.pause(0.1)
    assert r.told() == ["ollama has loaded llama3:8b (5G of GPU memory) while dolphin is resident"]
    r.slot("precheck", change="s2")
    r.slot("active", "dolphin")
    await r.pause(60)
    assert len(r.told()) == 1, "a refused change evicts nothing"
    await r.close()


@pytest.mark.parametrize("phases", [("cleanup", "settle", "rollback"), ("wait-vram", "start", "verify")])
async def test_what_stayed_loaded_through_a_change_is_no_news(phases: tuple[str, ...]) -> None:
    """It could not be evicted, or (as in a check of a model's sleep) nobody was to be."""
    r = await rig(watch_every=Seconds(30.0))
    r.slot("active")
    r.ollama.load(LLAMA)
    await r.unit()
    for state in ("precheck", "evict", *phases):
        r.slot(state, change="s1")
        await r.pause(0.1)
    r.slot("active")
    await r.pause(60)
    assert r.told() == []
    assert r.counters.snapshot() == {}
    await r.close()


async def test_what_a_second_eviction_unloaded_on_the_way_back_is_news_when_it_is_back() -> None:
    r = await rig(watch_every=Seconds(30.0))
    r.slot("active")
    r.ollama.load(LLAMA)
    await r.unit()
    for state in ("evict", "cleanup", "settle"):
        r.slot(state, change="s1")
        await r.pause(0.1)
    r.ollama._unload(LLAMA)
    r.slot("rollback", change="s1")
    await r.pause(0.1)
    r.ollama.load(LLAMA)
    r.slot("active")
    await r.pause(0.1)
    assert len(r.told()) == 1
    await r.close()


async def test_one_question_without_an_answer_makes_no_news_of_what_stayed_loaded() -> None:
    r = await rig(managed="system")
    r.slot("active")
    r.ollama.load(LLAMA)
    await r.pause()
    r.ollama.ps = 3600.0  # type: ignore[assignment]
    await r.pause(12)
    assert r.status.reachable is False
    r.ollama.ps = ""
    await r.pause(61)
    assert [m.name for m in r.status.models] == [LLAMA]
    assert r.told() == []
    await r.close()


async def test_what_a_restarted_one_loads_is_news_though_it_had_it_before() -> None:
    r = await rig(watch_every=Seconds(30.0))
    r.slot("active")
    r.ollama.load(LLAMA)
    await r.unit(pid=1)
    await r.unit(pid=2)
    assert r.told() == ["ollama has loaded llama3:8b (5G of GPU memory) while qwen is resident"]
    await r.close()


async def test_a_defect_in_what_a_look_brings_about_does_not_end_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    r = await rig()
    await r.unit()
    real, seen = r.board.put_runtime, r.status

    def broken(status: RuntimeStatus) -> None:
        del status
        raise RuntimeError("a defect")

    monkeypatch.setattr(r.board, "put_runtime", broken)
    await r.pause()
    monkeypatch.setattr(r.board, "put_runtime", real)
    await r.pause(60)
    assert r.status.observed > seen.observed
    await r.close()


NO_MATTER = [("ignore", "active", 1), ("evict", "idle", 1), ("evict", "active", 0)]


@pytest.mark.parametrize(("policy", "state", "vram"), NO_MATTER)
async def test_no_word_about_what_is_in_nobodys_way(policy: str, state: str, vram: int) -> None:
    r = await rig(policy=policy)
    r.slot(state, "qwen" if state == "active" else None)
    await r.unit()
    await r.pause()
    r.ollama.load(LLAMA)
    r.ollama.loaded[LLAMA] *= vram
    await r.pause(60)
    assert r.told() == []
    await r.close()


# -- off the GPU ----------------------------------------------------------------------------------------------------

OFF = {"CUDA_VISIBLE_DEVICES": "-1", "HOME": "/root"}


async def started(environment: dict[str, str], **runtime: object) -> Rig:
    r = await rig(policy="cpu_only", **runtime)
    pid = r.world.kernel.spawn("ollama", unit="ollama.service")
    r.world.kernel.processes[pid].environment = environment
    await r.unit(pid=pid)
    return r


async def test_cpu_only_is_proved_by_the_environment_of_the_process() -> None:
    r = await started(OFF)
    found = r.finding()
    assert (found.verdict, found.severity, found.effective) == (Verdict.EFFECTIVE, Severity.OK, "-1")
    await r.close()


async def test_cpu_only_needs_a_restart_where_the_process_is_older() -> None:
    r = await started({"HOME": "/root"})
    r.ollama.load(LLAMA)
    await r.pause()
    found = r.finding()
    assert (found.verdict, found.severity) == (Verdict.NEEDS_RESTART, Severity.WARNING)
    assert "llama3:8b (5G)" in found.cause
    assert found.fix.startswith("agentctl restart ollama")
    await r.unit(ActiveState.INACTIVE)
    assert r.finding().verdict is Verdict.NOT_RUNNING
    await r.close()


@pytest.mark.parametrize(("managed", "fix"), [("system", "sudo systemctl edit ollama"), ("container", "the container")])
async def test_cpu_only_of_somebody_elses_process_is_judged_by_its_own_account(managed: str, fix: str) -> None:
    r = await rig(policy="cpu_only", managed=managed)
    await r.pause()
    found = r.finding()
    cause = "nothing is on the GPU now, and its process cannot be looked into"
    assert (found.verdict, found.cause) == (Verdict.NOT_PROVABLE, cause)
    r.ollama.load(LLAMA)
    await r.pause()
    found = r.finding()
    assert (found.verdict, found.severity) == (Verdict.NOT_EFFECTIVE, Severity.ERROR)
    assert fix in found.fix
    await r.close()


async def test_of_one_that_does_not_answer_nothing_is_said_about_the_gpu() -> None:
    r = await rig(policy="cpu_only", managed="system")
    r.ollama.gone = True
    await r.pause()
    found = r.finding()
    cause = "it does not answer, and its process cannot be looked into"
    assert (found.verdict, found.cause) == (Verdict.NOT_PROVABLE, cause)
    await r.close()


async def test_other_policies_have_no_finding() -> None:
    r = await rig()
    assert r.manager.findings() == ()
    await r.close()


# -- not ours -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("managed", "hint"), [("system", "sudo systemctl restart ollama"), ("container", "own tools")])
def test_what_is_not_ours_is_not_started_or_stopped(managed: str, hint: str) -> None:
    service = configured(managed=managed).services["ollama"]
    with pytest.raises(AgentdError, match="cannot restart ollama") as refused:
        refuse_outside("ollama", service, "restart")
    assert hint in refused.value.hint


def test_what_is_ours_is() -> None:
    refuse_outside("ollama", configured().services["ollama"], "restart")


# -- metrics, parsing -----------------------------------------------------------------------------------------------


def test_a_model_that_is_listed_twice_is_one() -> None:
    """As after a pull of a newer one under the same name: a label that stood twice would spoil the whole scrape."""
    new = {"name": LLAMA, "size": 5, "size_vram": 4, "expires_at": "2030-01-01T00:00:00Z"}
    twice = [new, {"name": LLAMA, "size": 2}]
    model, other = parsing.loaded(200, json.dumps({"models": [*twice, {"name": "other"}]}).encode())
    assert (model.name, model.size, model.size_vram, other.name) == (LLAMA, 7, 4, "other")
    assert model.expires > 0


def test_metrics_have_a_sample_per_loaded_model_and_none_for_one_that_is_down() -> None:
    models = (RuntimeModel(LLAMA, 5 * GIB, 4 * GIB), RuntimeModel("cpu", GIB))
    up = RuntimeStatus("ollama", "ollama.service", URL, "evict", "unit", True, "0.24.0", models)
    down = RuntimeStatus("other", "other.service", URL, "evict", "unit", None)
    view = MetricsView("1", 0.0, True, runtimes=(up, down))
    samples = {(s.name, *s.labels.values()): s.value for family in runtimes(view) for s in family.samples}
    assert samples["agentd_runtime_up", "ollama"] == 1.0
    assert ("agentd_runtime_up", "other") not in samples
    assert samples["agentd_runtime_loaded_models", "ollama"] == 2.0
    assert samples["agentd_runtime_model_vram_bytes", "ollama", LLAMA] == 4 * GIB
    assert samples["agentd_runtime_model_vram_bytes", "ollama", "cpu"] == 0.0


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("2024-06-04T14:38:31.83753-07:00", 1717537111.83753),
        ("2024-06-04T14:38:31Z", 1717511911.0),
        ("2024-06-04T14:38:31.123456789Z", 1717511911.123456),
        ("2318-09-02T10:00:00+02:00", 11002896000.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("soon", 0.0),
        (None, 0.0),
        (7, 0.0),
    ],
)
def test_times_as_go_writes_them(stamp: object, seconds: float) -> None:
    body = json.dumps({"models": [{"name": "a", "expires_at": stamp}]}).encode()
    assert parsing.loaded(200, body)[0].expires == pytest.approx(seconds, abs=1e-5)


@pytest.mark.parametrize("size", [-1, "5", None, [], float("nan"), 1e300, True])
def test_sizes_that_are_none(size: object) -> None:
    body = json.dumps({"models": [{"name": "a", "size_vram": size}]}).encode()
    assert parsing.loaded(200, body)[0].size_vram in (0, 1)


def test_an_empty_list_may_be_null() -> None:
    assert parsing.loaded(200, b'{"models":null}') == ()


def test_the_document_names_every_family_and_every_policy() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/ollama.md").read_text()
    view = MetricsView("1", 0.0, True, runtimes=(RuntimeStatus("a", "a.service", URL, "evict", "unit", True),))
    names = [family.name for family in runtimes(view)]
    names += [f"{name}_total" for name in FAMILIES if name.startswith("agentd_runtime_")]
    assert len(names) == 6
    policies = POLICIES
    assert not [name for name in (*names, *policies) if f"`{name}" not in text]
