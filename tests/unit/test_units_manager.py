"""Supervision on fakes, in virtual time: probes, failures, recovery, dependencies, what is told and what is not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
import pytest
from fakes import Behaviour, FakeWorld, answer

from agentd.core.schema import Daemon, HttpCheck, Model, Probe, Recovery, Seconds, Service, Settings, Slot
from agentd.engine.events import EventLog
from agentd.engine.loop import ReconcileLoop
from agentd.engine.world import World
from agentd.errors import AgentdError, BusError
from agentd.managers.units.failures import FailureRecord, given_up
from agentd.managers.units.manager import UnitsManager
from agentd.managers.units.watch import UnitPorts
from agentd.types import ActiveState, Health, ServiceStatus, SlotStatus, UnitState

URL = "http://127.0.0.1:9000"
CHECK = HttpCheck("/health")


def probe(**settings: object) -> Probe:
    return Probe(**{"http": CHECK, "period": 1.0, "failure_threshold": 2, **settings})  # type: ignore[arg-type]


def web(**settings: object) -> Service:
    return Service(**{"unit": "web.service", "url": URL, "readiness": probe(), **settings})  # type: ignore[arg-type]


@dataclass
class Rig:
    world: FakeWorld
    manager: UnitsManager
    loop: ReconcileLoop
    events: EventLog
    board: World
    revived: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    status: int = 200
    """What the web server answers; 0: it is not there."""

    def service(self, name: str = "web") -> ServiceStatus:
        found = self.board.service(name)
        assert found is not None
        return found

    def kinds(self, name: str = "web") -> list[str]:
        return [e.kind for e in self.events.recent(1000) if e.subject == name]

    def told(self, name: str = "web") -> list[object]:
        return [e.data["health"] for e in self.events.recent(1000) if e.kind == "service.health" and e.subject == name]

    def last(self, kind: str) -> str:
        return next(e.message for e in reversed(self.events.recent(1000)) if e.kind == kind)


async def rig(services: dict[str, Service], **daemon: object) -> Rig:
    world = FakeWorld()
    events, board = EventLog(world.store, world.clock), World(world.clock)
    made: Rig

    async def restart(name: str) -> None:
        made.restarted.append(name)

    def revive(name: str) -> bool:
        made.revived.append(name)
        return True

    ports = UnitPorts(world.units, world.kernel, world.prober, world.journal, world.clock)
    manager = UnitsManager(ports, events, board, lambda: made.loop.wake(), revive, restart)
    loop = ReconcileLoop([manager], world.notifier, period=60.0)
    made = Rig(world, manager, loop, events, board)
    world.prober.serve(URL, lambda request: answer(made.status) if made.status else None)
    for service in services.values():
        world.units.add(service.unit)
    world.units.on_change(manager.unit_changed)
    slots = {"gpu0": Slot()} if any(s.model for s in services.values()) else {}
    await manager.apply(Settings(daemon=Daemon(**daemon), services=services, slots=slots))  # type: ignore[arg-type]
    await loop.once()
    made_task = asyncio.ensure_future(loop.run())
    made_task.add_done_callback(lambda task: None if task.cancelled() else task.result())
    return made


async def up(rig: Rig, unit: str = "web.service") -> None:
    await (await rig.world.units.start(unit)).wait(10)
    await rig.world.clock.advance(0.5)


async def test_ready_unready_ready() -> None:
    it = await rig({"web": web()})
    assert it.service().health is Health.STOPPED
    await up(it)
    assert it.service().health is Health.READY
    it.status = 503
    await it.world.clock.advance(1.1)
    assert it.service().health is Health.READY, "one failure is below the threshold"
    assert it.service().probes[0].failures == 1, "but it is shown"
    await it.world.clock.advance(1.1)
    assert it.service().health is Health.UNREADY
    assert "503" in it.service().cause
    it.status = 200
    await it.world.clock.advance(1.1)
    assert it.service().health is Health.READY
    assert it.service().cause == ""
    assert it.told() == ["starting", "ready", "unready", "ready"]


async def test_startup_comes_first_and_needs_its_own_threshold() -> None:
    it = await rig({"web": web(startup=probe(period=1.0, failure_threshold=3))})
    it.status = 503
    await up(it)
    assert it.service().health is Health.STARTING
    await it.world.clock.advance(1.0)
    assert it.service().health is Health.STARTING, "two failures are below the threshold"
    await it.world.clock.advance(1.0)
    assert it.service().health is Health.UNREADY
    assert it.service().cause.startswith("startup probe")
    assert [r.path for r in it.world.prober.requests] == ["/health"] * len(it.world.prober.requests)
    asked = len(it.world.prober.requests)
    it.status = 200
    await it.world.clock.advance(1.1)
    assert it.service().health is Health.READY
    assert len(it.world.prober.requests) == asked + 2, "startup once more, then readiness at once"


async def test_a_probe_with_a_bug_is_a_failure_and_goes_on() -> None:
    it = await rig({"web": web()})
    await up(it)

    def broken(_: object) -> None:
        raise KeyError("bug")

    it.world.prober.serve(URL, broken)  # type: ignore[arg-type]
    await it.world.clock.advance(2.5)
    assert it.service().health is Health.UNREADY
    assert "internal error (KeyError)" in it.service().cause
    it.world.prober.serve(URL, lambda _: answer(200))
    await it.world.clock.advance(1.1)
    assert it.service().health is Health.READY


async def test_hurry_asks_at_once_and_forgets_nothing() -> None:
    it = await rig({"web": web(readiness=probe(period=1000.0))})
    await up(it)
    asked = len(it.world.prober.requests)
    it.manager.hurry("web")
    assert it.service().health is Health.READY
    await it.world.clock.advance(0.1)
    assert len(it.world.prober.requests) == asked + 1
    assert it.told() == ["starting", "ready"], "no flicker"
    it.manager.hurry("nobody")


async def test_the_end_of_a_process_is_shown_before_systemd_says_it() -> None:
    it = await rig({"web": web()})
    await up(it)
    pid = it.service().main_pid
    it.world.units.lost_wakeups = True
    unit = it.world.units.units["web.service"]
    unit.pids = []  # systemd itself has not noticed yet
    it.world.kernel.exit(pid)
    await it.world.clock.settle()
    assert it.service().main_pid == 0
    assert it.service().health is Health.UNREADY
    assert it.service().cause == f"main process {pid} has ended"
    assert it.kinds().count("service.process-ended") == 1, "also after systemd's stale answer was read again"
    assert it.told()[-1] == "ready", "how it ended is told only once systemd has said it"
    it.world.units.lost_wakeups = False
    it.world.units.change("web.service", active_state=ActiveState.FAILED, result="signal", main_pid=0)
    await it.world.clock.advance(0.1)
    assert it.told()[-1] == "failed"


async def test_a_clean_stop_is_told_as_one() -> None:
    it = await rig({"web": web()})
    await up(it)
    await (await it.world.units.stop("web.service")).wait(10)
    await it.world.clock.advance(0.5)
    assert it.service().health is Health.STOPPED
    assert not {"failed", "unready"} & set(it.told())


async def test_a_unit_without_a_process_is_probed() -> None:
    it = await rig({"web": web()})
    it.world.units.change("web.service", active_state=ActiveState.ACTIVE, sub_state="exited", invocation_id="1")
    await it.world.clock.advance(0.5)
    assert it.service().health is Health.READY
    it.status = 0
    await it.world.clock.advance(2.5)
    assert it.service().health is Health.UNREADY


async def test_dependencies_roll_up_and_name_who_is_missing() -> None:
    ping = Probe(redis=True, period=Seconds(5.0), failure_threshold=3)
    store = Service(unit="store.service", role="store", url="redis://127.0.0.1:6379", readiness=ping)
    it = await rig({"store": store, "web": web(depends_on=("store",)), "front": Service(
        unit="front.service", depends_on=("web",))})  # fmt: skip
    it.world.prober.redis[store.url] = ""
    for unit in ("store.service", "web.service", "front.service"):
        await up(it, unit)
    assert {s.name: s.health.value for s in it.board.services} == dict.fromkeys(("store", "web", "front"), "ready")
    it.world.prober.redis[store.url] = "connection refused"
    await it.world.clock.advance(20)
    assert it.service("store").health is Health.UNREADY
    assert it.service("web").health is Health.DEGRADED
    assert it.service("web").blocked_by == ("store",)
    assert it.service("front").health is Health.READY, "degraded still serves"
    it.world.prober.redis[store.url] = ""
    await it.world.clock.advance(20)
    assert it.service("web").health is Health.READY


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_an_oom_kill_is_recognised() -> None:
    """Only here: without a memory controller no real unit can be made to end so."""
    it = await rig({"web": web()})
    await up(it)
    it.world.units.die("web.service", code=2, status=9, result="oom-kill")
    await it.world.clock.advance(0.5)
    assert it.service().health is Health.FAILED
    assert "memory ran out (OOM)" in it.service().cause
    assert it.kinds().count("service.oom-killed") == 1


async def test_an_oom_kill_is_recognised_although_systemd_restarts() -> None:
    it = await rig({"web": web()})
    it.world.units.units["web.service"].behaviour = Behaviour(restart=True, restart_seconds=5)
    await up(it)
    it.world.units.die("web.service", code=2, status=9, result="oom-kill")
    await it.world.clock.advance(1)
    assert it.kinds().count("service.oom-killed") == 1
    assert it.service().health is Health.STARTING
    assert "OOM" in it.service().cause


async def test_the_cause_has_the_last_words_of_the_run_that_failed() -> None:
    it = await rig({"web": web()})
    await up(it)
    run = it.world.units.state("web.service").invocation_id
    it.world.journal.say("web.service", "RuntimeError: of another run", invocation="other")
    it.world.journal.say("web.service", "ValueError: no such model", invocation=run)
    it.world.units.die("web.service", status=3)
    await it.world.clock.advance(0.5)
    assert it.last("service.failed") == "web: web.service exited with status 3: ValueError: no such model"
    assert it.service().cause == "web.service exited with status 3: ValueError: no such model"


def crashing(**recovery: object) -> Service:
    return Service(unit="web.service", recovery=Recovery(**recovery))  # type: ignore[arg-type]


async def crash_loop(it: Rig) -> None:
    """Until systemd gives it up, as it really does: the result stays that of the last crash."""
    it.world.units.units["web.service"].behaviour = Behaviour(restart=True, restart_seconds=0.1, exit_on_start=1)
    await it.world.units.start("web.service")
    await it.world.clock.advance(3)


async def test_a_crash_loop_is_told_once_and_recovered_with_backoff() -> None:
    it = await rig({"web": crashing(base=30.0, max=900.0, attempts=3)})
    await crash_loop(it)
    assert it.kinds().count("service.crash-loop") == 1
    assert it.kinds().count("service.start-limit") == 1
    assert it.service().crash_loop
    assert "systemd has given it up after 4 restarts" in it.service().cause
    calls = it.world.units.calls
    resets = [call for call in calls if call == ("reset_failed", "web.service")]
    assert resets == []
    await it.world.clock.advance(31)
    resets = [call for call in calls if call == ("reset_failed", "web.service")]
    assert len(resets) == 1, "reset and started after 24 to 30 s"
    await it.world.clock.advance(2000)
    resets = [call for call in calls if call == ("reset_failed", "web.service")]
    assert len(resets) == 3
    assert it.kinds().count("service.backoff") == 3
    assert it.kinds().count("service.given-up") == 1, "said once, not at every pass"


async def test_a_recovered_service_stays_recovered() -> None:
    it = await rig({"web": crashing(base=30.0)}, crash_loop_window=300.0)
    await crash_loop(it)
    it.world.units.units["web.service"].behaviour = Behaviour()
    await it.world.clock.advance(31)
    assert it.service().health is Health.READY
    await it.world.clock.advance(400)
    assert not it.service().crash_loop, "the window has passed"
    assert it.kinds().count("service.backoff") == 1


async def test_a_flapping_service_does_not_get_its_tries_back() -> None:
    """Ready for a moment between crashes is not healthy."""
    record, policy = FailureRecord(), Recovery(base=Seconds(1.0), attempts=2)
    for now in (0.0, 10.0):
        record.note_health(ready=True, now=now, long_enough=300)
        record.note_health(ready=False, now=now + 5, long_enough=300)
        assert record.next_recovery(policy, 0.0) is not None
    assert record.next_recovery(policy, 0.0) is None
    record.note_health(ready=True, now=100, long_enough=300)
    record.note_health(ready=False, now=401, long_enough=300)
    assert record.next_recovery(policy, 0.0) == 1.0


async def test_policy_none_leaves_it_down() -> None:
    it = await rig({"web": crashing(policy="none")})
    await crash_loop(it)
    await it.world.clock.advance(3600)
    assert ("reset_failed", "web.service") not in it.world.units.calls
    assert it.kinds().count("service.given-up") == 1


async def test_a_service_that_leaves_the_configuration_is_not_recovered() -> None:
    it = await rig({"web": crashing(base=30.0)})
    await crash_loop(it)
    await it.manager.apply(Settings())
    await it.world.clock.advance(3600)
    assert it.board.services == ()
    assert ("reset_failed", "web.service") not in it.world.units.calls


async def test_somebody_else_s_start_ends_the_waiting() -> None:
    it = await rig({"web": crashing(base=30.0)})
    await crash_loop(it)
    it.world.units.units["web.service"].behaviour = Behaviour()
    await it.world.units.reset_failed("web.service")
    await up(it)
    resets = it.world.units.calls.count(("reset_failed", "web.service"))
    await it.world.clock.advance(100)
    assert it.world.units.calls.count(("reset_failed", "web.service")) == resets
    assert it.service().health is Health.READY


def test_given_up() -> None:
    failed = UnitState("x.service", "loaded", ActiveState.FAILED, "failed", result="exit-code")
    assert not given_up(failed), "a unit that just failed was not given up"
    assert given_up(UnitState("x.service", "loaded", ActiveState.FAILED, "failed", result="start-limit-hit"))
    assert given_up(UnitState("x.service", "loaded", ActiveState.FAILED, "failed", result="exit-code", restarts=4))
    assert not given_up(UnitState("x.service", "loaded", ActiveState.ACTIVATING, "auto-restart", restarts=4))


def model_service() -> Service:
    spec = Model(slot="gpu0", served_name="web")
    return Service(unit="web.service", role="model", url=URL, model=spec, recovery=Recovery(base=Seconds(30.0)))


@pytest.mark.parametrize(("resident", "expected"), [(None, ["web"]), ("other", [])])
async def test_a_model_is_revived_by_its_slot_alone(resident: str | None, expected: list[str]) -> None:
    it = await rig({"web": model_service()})
    it.board.put_slot(SlotStatus("gpu0", "degraded", ("web", "other"), resident=resident))
    await crash_loop(it)
    await it.world.clock.advance(31)
    assert it.revived[:1] == expected
    assert ("reset_failed", "web.service") not in it.world.units.calls
    assert ("service.backoff" in it.kinds()) == bool(expected), "what is not wanted is not announced either"


async def test_a_model_that_sleeps_is_asleep_whatever_its_probes_say_and_is_not_restarted() -> None:
    service = model_service()
    live = probe(period=2.0, failure_threshold=2)
    it = await rig({"web": msgspec.structs.replace(service, liveness=live, on_liveness="restart")})
    await up(it)
    assert it.service().health is Health.READY
    it.board.put_slot(SlotStatus("gpu0", "active", ("web", "other"), resident="other", sleeping=("web",)))
    assert it.service().health is Health.ASLEEP
    it.status = 503
    await it.world.clock.advance(10)
    assert it.service().health is Health.UNREADY
    assert it.restarted == []
    it.status = 200
    await it.world.clock.advance(10)
    assert it.service().health is Health.ASLEEP
    it.board.put_slot(SlotStatus("gpu0", "active", ("web", "other"), resident="web"))
    assert it.service().health is Health.READY


async def test_what_was_not_read_yet_is_not_called_missing() -> None:
    """A service whose configuration changed, or that is new, is spoken of only once its unit was read."""
    services = {
        "store": web(unit="store.service"),
        "web": msgspec.structs.replace(model_service(), depends_on=("store",)),
    }
    it = await rig(services)
    assert it.told() == []
    await up(it)
    assert it.service().health is Health.DEGRADED
    changed = msgspec.structs.replace(services["web"], readiness=probe(period=2.0))
    settings = Settings(services={**services, "web": changed}, slots={"gpu0": Slot()})
    await it.manager.apply(settings)
    it.board.put_slot(SlotStatus("gpu0", "active", ("web", "other"), resident="other", sleeping=("web",)))
    await up(it, "store.service")
    assert it.service().health is Health.ASLEEP
    assert "missing" not in it.told()


# -- liveness ---------------------------------------------------------------------------------------------------------


async def test_liveness_restarts_where_asked_also_when_readiness_failed_first() -> None:
    live = probe(period=2.0, failure_threshold=3, timeout=2.0)
    it = await rig({"web": web(liveness=live, on_liveness="restart")})
    await up(it)
    first = it.service().main_pid
    it.status = 503
    await it.world.clock.advance(3)
    assert it.service().health is Health.UNREADY
    await it.world.clock.advance(4)
    assert it.kinds().count("service.liveness-restart") == 1
    it.status = 200
    await it.world.clock.advance(2)
    assert it.service().main_pid != first
    assert it.service().health is Health.READY
    it.status = 503
    await it.world.clock.advance(10)
    assert it.kinds().count("service.liveness-restart") >= 2, "another process, another verdict"


async def test_liveness_reports_by_default() -> None:
    it = await rig({"web": web(liveness=probe(period=2.0))})
    await up(it)
    it.status = 503
    await it.world.clock.advance(60)
    assert it.service().health is Health.UNREADY
    assert ("restart", "web.service") not in it.world.units.calls


async def test_liveness_of_a_model_goes_through_its_slot() -> None:
    service = model_service()
    live = Service(
        unit=service.unit, role="model", url=URL, model=service.model, on_liveness="restart", startup=Probe(none=True),
        readiness=probe(), liveness=probe(period=2.0, timeout=2.0),
    )  # fmt: skip
    it = await rig({"web": live})
    await up(it)
    it.status = 503
    await it.world.clock.advance(10)
    assert it.restarted == ["web"]
    assert ("restart", "web.service") not in it.world.units.calls


# -- systemd away -----------------------------------------------------------------------------------------------------


async def test_a_lost_bus_loses_no_change() -> None:
    it = await rig({"a": Service(unit="a.service"), "b": Service(unit="b.service"), "web": web()})
    await up(it)
    it.world.units.drop_bus()
    it.manager.unit_changed("a.service")
    await it.world.clock.advance(1)
    assert "units" in it.loop.errors
    assert it.service().health is Health.READY, "probes go on without the bus"
    for unit in ("a.service", "b.service"):
        it.world.units.change(unit, active_state=ActiveState.ACTIVE, sub_state="running")
    it.world.units.restore_bus()
    await it.world.clock.advance(0.1)
    assert it.loop.errors == {}
    assert {s.name: s.health for s in it.board.services} == dict.fromkeys(("a", "b", "web"), Health.READY)


async def test_one_unit_that_cannot_be_read_does_not_hide_the_others() -> None:
    it = await rig({"a": Service(unit="a.service"), "b": Service(unit="b.service")})
    show = it.world.units.show

    async def refuse(unit: str) -> UnitState:
        if unit == "a.service":
            raise BusError("bus-denied", "cannot show a.service: not allowed")
        return await show(unit)

    it.world.units.show = refuse  # type: ignore[method-assign]
    await up(it, "b.service")
    it.manager.unit_changed("a.service")
    it.manager.unit_changed("b.service")
    await it.world.clock.advance(0.1)
    assert it.service("b").health is Health.READY
    assert it.loop.errors == {"units": "cannot show a.service: not allowed"}
    it.world.units.show = show  # type: ignore[method-assign]
    await it.world.clock.advance(6)
    assert it.loop.errors == {}, "tried again soon, without a signal"


async def test_lost_signals_are_made_up_for_by_the_resync() -> None:
    it = await rig({"web": web()}, resync=60.0)
    it.world.units.lost_wakeups = True
    await (await it.world.units.start("web.service")).wait(10)
    await it.world.clock.advance(1)
    assert it.service().health is Health.STOPPED
    await it.world.clock.advance(61)
    assert it.service().health is Health.READY


async def test_recovery_without_a_bus_is_told() -> None:
    it = await rig({"web": crashing(base=30.0)})
    await crash_loop(it)
    it.world.units.refuse["reset_failed"] = AgentdError("bus-down", "cannot reset: the bus is gone")
    await it.world.clock.advance(31)
    assert it.last("service.recovery-failed") == "cannot reset: the bus is gone"


async def test_an_unchanged_service_keeps_its_watch_over_a_reload() -> None:
    it = await rig({"web": web()})
    await up(it)
    asked, pid = len(it.world.prober.requests), it.service().main_pid
    await it.manager.apply(Settings(services={"web": web(), "new": Service(unit="new.service")}))
    await it.loop.fresh(1)
    assert it.service().main_pid == pid
    assert it.service().health is Health.READY
    assert it.service("new").health is Health.MISSING
    assert len(it.world.prober.requests) == asked
    await it.manager.apply(Settings(services={"web": web(readiness=probe(http=HttpCheck("/other")))}))
    await it.loop.fresh(1)
    await it.world.clock.advance(0.1)
    assert it.world.prober.requests[-1].path == "/other"
    assert [s.name for s in it.board.services] == ["web"]


async def test_close_ends_every_task() -> None:
    it = await rig({"web": web(), "crash": Service(unit="crash.service", recovery=Recovery(base=Seconds(30.0)))})
    await up(it)
    await it.manager.close()
    asked = len(it.world.prober.requests)
    await it.world.clock.advance(100)
    assert len(it.world.prober.requests) == asked
