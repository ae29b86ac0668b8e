"""The engine's parts on their own: broadcast, events, changes, world, loop, runner."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest
from fakes import FakeClock, FakeStore
from fakes.notifier import FakeNotifier

from agentd.core.switch import Signal, State
from agentd.engine import loop as loop_module
from agentd.engine.broadcast import Broadcast
from agentd.engine.changes import KEPT, ChangeBook
from agentd.engine.events import RING, EventLog
from agentd.engine.loop import ReconcileLoop
from agentd.engine.runner import Run, Runner, Step
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.gpu import GpuSnapshot
from agentd.types import Change, Outcome, Role, ServiceStatus, SlotStatus

FULL = AgentdError("journal-full", "cannot write to the journal: the disk is full")


# -- broadcast --------------------------------------------------------------------------------------------------------


async def collect(items: AsyncIterator[int]) -> list[int]:
    return [item async for item in items]


async def test_every_listener_gets_everything_from_its_beginning_on() -> None:
    news: Broadcast[int] = Broadcast()
    news.publish(0)
    with news.listen() as first:
        news.publish(1)
        with news.listen() as second:
            news.publish(2)
            news.close()
            assert await collect(first) == [1, 2]
            assert await collect(second) == [2]
    with news.listen() as late:
        assert await collect(late) == []


async def test_a_slow_listener_loses_its_oldest_and_slows_nobody() -> None:
    news: Broadcast[int] = Broadcast(capacity=3)
    with news.listen() as slow:
        for number in range(10):
            news.publish(number)
        news.close()
        assert await collect(slow) == [8, 9], "the end takes a place, too"


async def test_who_left_is_forgotten() -> None:
    news: Broadcast[int] = Broadcast()
    with pytest.raises(RuntimeError), news.listen():
        raise RuntimeError
    assert not news._queues


# -- events -----------------------------------------------------------------------------------------------------------


async def test_events_are_numbered_kept_and_continued_after_a_restart() -> None:
    clock, store = FakeClock(), FakeStore()
    log = EventLog(store, clock)
    writer = asyncio.ensure_future(log.run())
    for number in range(3):
        log.emit("test.fact", "me", f"fact {number}", number=number)
    await clock.settle()
    assert [e.seq for e in store.log] == [1, 2, 3]
    writer.cancel()
    again = EventLog(store, clock)
    await again.load()
    assert again.emit("test.fact", "me", "one more").seq == 4
    assert [e.message for e in again.recent(2)] == ["fact 2", "one more"]
    assert [e.seq for e in again.recent(10, after=2)] == [3, 4]


async def test_events_that_cannot_be_saved_are_saved_later() -> None:
    clock, store = FakeClock(), FakeStore()
    log = EventLog(store, clock)
    store.fail = FULL
    log.emit("test.fact", "me", "first")
    await log.flush()
    assert store.log == []
    store.fail = None
    log.emit("test.fact", "me", "second")
    await log.flush()
    assert [e.message for e in store.log] == ["first", "second"]
    await log.flush()
    assert len(store.log) == 2


async def test_a_full_queue_loses_only_its_oldest() -> None:
    """While a batch is being written, more comes than the queue holds: what is new must not be dropped with it."""
    clock, store = FakeClock(), FakeStore()
    log = EventLog(store, clock)
    for number in range(RING):
        log.emit("test.fact", "me", str(number))
    saving = asyncio.ensure_future(log.flush())
    await asyncio.sleep(0)
    for number in range(10):
        log.emit("test.late", "me", str(number))
    await saving
    await log.flush()
    assert [e.kind for e in store.log].count("test.late") == 10
    assert len(store.log) == RING + 10


# -- changes ----------------------------------------------------------------------------------------------------------


def change(number: int, **fields: object) -> Change:
    base = Change(f"s{number}", "switch", "gpu0", "qwen", "dolphin", float(number), "precheck")
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type]


def done(number: int, seconds: float = 4.0) -> Change:
    return change(number, finished=number + seconds, outcome=Outcome.DONE, exit_code=0)


async def test_following_a_change_shows_its_steps_and_ends_with_it() -> None:
    book = ChangeBook(FakeStore())
    book.note(change(1))
    seen = []

    async def follow() -> None:
        async for step in book.follow("s1"):
            seen.append(step.phase)  # noqa: PERF401 - kept when it is cut off

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    book.note(change(2, phase="other"))
    book.note(change(1, phase="drain"))
    book.note(dataclasses.replace(done(1), phase="active"))
    await asyncio.wait_for(following, 1)
    assert seen == ["precheck", "drain", "active"]
    with pytest.raises(AgentdError, match="there is no change nobody"):
        await anext(book.follow("nobody"))


async def test_the_book_is_bounded_and_estimates() -> None:
    store = FakeStore()
    book = ChangeBook(store)
    ended: list[str] = []
    book.on_end.append(lambda c: ended.append(c.id))
    for number in range(KEPT + 20):
        book.note(done(number))
    assert len(book.recent(10_000)) == KEPT
    assert [c.id for c in book.recent(2)] == [f"s{KEPT + 19}", f"s{KEPT + 18}"]
    assert len(ended) == KEPT + 20
    assert book.estimate("dolphin", "qwen") == pytest.approx(4.0)
    assert book.estimate("qwen", "dolphin") is None
    book.note(change(9999, finished=20000.0, outcome=Outcome.ROLLED_BACK))
    assert book.estimate("dolphin", "qwen") == pytest.approx(4.0), "a failure says nothing about a success"
    store.saved = {c.id: c for c in (done(1, 2.0), done(2, 2.0))}
    again = ChangeBook(store)
    await again.load()
    assert again.estimate("dolphin", "qwen") == pytest.approx(2.0)
    assert [c.id for c in again.recent(5)] == ["s2", "s1"]


# -- world ------------------------------------------------------------------------------------------------------------


async def test_the_world_forgets_what_is_not_configured_and_knows_its_age() -> None:
    clock = FakeClock()
    world = World(clock)
    for name in ("a", "b"):
        world.put_service(ServiceStatus(name, Role.GENERIC, f"{name}.service"))
        world.put_slot(SlotStatus(name, "idle", ()))
    world.keep({"a"}, {"b"})
    assert [s.name for s in world.services] == ["a"]
    assert [s.name for s in world.slots] == ["b"]
    assert world.service("b") is None
    assert world.slot("a") is None
    assert world.ages() == {}
    world.put_gpus(GpuSnapshot("nvml"), {(0, "a.service"): 5})
    await clock.advance(7)
    assert world.ages()["gpus"] == pytest.approx(7, abs=0.01)
    assert world.gpu_owners == {(0, "a.service"): 5}


# -- loop -------------------------------------------------------------------------------------------------------------


class Looker:
    def __init__(self, name: str = "looker", seconds: float = 0.0) -> None:
        self.name = name
        self.seconds = seconds
        self.passes = 0
        self.error: Exception | None = None

    async def ensure(self) -> None:
        await asyncio.sleep(self.seconds)
        self.passes += 1
        if self.error is not None:
            raise self.error


async def test_a_flood_of_wakes_is_a_few_passes() -> None:
    clock, looker = FakeClock(), Looker()
    loop = ReconcileLoop([looker], FakeNotifier(), period=60)
    running = asyncio.ensure_future(loop.run())
    for _ in range(1000):
        loop.wake()
        await asyncio.sleep(0.0001)
    assert 2 <= looker.passes <= 10
    await clock.advance(1)
    before = looker.passes
    await clock.advance(55)
    assert looker.passes == before, "nothing happens in between"
    await clock.advance(5)
    assert looker.passes == before + 1
    running.cancel()


async def test_errors_stay_with_their_manager_and_are_tried_again_soon() -> None:
    clock = FakeClock()
    bad, worse, good = Looker("bad"), Looker("worse"), Looker("good")
    bad.error, worse.error = AgentdError("bus-down", "the bus is gone"), KeyError("a bug")
    loop = ReconcileLoop([bad, worse, good], FakeNotifier(), period=60)
    await loop.once()
    assert good.passes == 1
    assert loop.errors == {"bad": "the bus is gone", "worse": "internal error (KeyError)"}
    assert loop.first_pass.is_set()
    running = asyncio.ensure_future(loop.run())
    bad.error = worse.error = None
    await clock.advance(loop_module.RETRY + 0.1)
    assert loop.errors == {}
    before = good.passes
    await clock.advance(30)
    assert good.passes == before
    running.cancel()


async def test_fresh_waits_for_a_pass_that_began_afterwards() -> None:
    clock, looker = FakeClock(), Looker(seconds=1.0)
    loop = ReconcileLoop([looker], FakeNotifier(), period=60)
    running = asyncio.ensure_future(loop.run())
    loop.wake()
    await clock.advance(0.5)
    began = clock.monotonic()
    await loop.fresh(10)
    assert looker.passes == 2, "the pass that was under way does not count"
    assert 1.4 < clock.monotonic() - began < 2
    looker.seconds = 1000.0
    began = clock.monotonic()
    await loop.fresh(3)
    assert clock.monotonic() - began == pytest.approx(3, abs=0.1)
    running.cancel()


async def test_the_watchdog_is_petted_while_a_pass_waits_but_not_for_ever() -> None:
    clock, notifier = FakeClock(), FakeNotifier(watchdog_period=15.0)
    looker = Looker(seconds=100.0)
    loop = ReconcileLoop([looker], notifier, period=60)
    tasks = [asyncio.ensure_future(loop.run()), asyncio.ensure_future(loop.heartbeat())]
    loop.wake()
    await clock.advance(90)
    assert notifier.count("watchdog") == 7, "a slow bus is no reason to be killed"
    looker.seconds = 10_000.0
    await clock.advance(100)
    loop.wake()
    await clock.advance(loop_module.STUCK + 30)
    before = notifier.count("watchdog")
    await clock.advance(200)
    assert notifier.count("watchdog") == before, "a pass that never ends is"
    for task in tasks:
        task.cancel()


async def test_no_watchdog_no_heartbeat() -> None:
    loop = ReconcileLoop([], FakeNotifier(), period=60)
    await loop.heartbeat()


# -- runner -----------------------------------------------------------------------------------------------------------


class Script:
    """Phases that do as they are told; the rest pass at once."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.steps: dict[State, Step | Exception | float] = {}
        """A step, an error, or seconds that the phase takes before it passes."""
        self.limits: dict[State, float] = {}
        self.entered: list[State] = []
        self.cut: list[State] = []

    async def perform(self, state: State, run: Run) -> Step:
        self.entered.append(state)
        act = self.steps.get(state, Step(Signal.PASS))
        if isinstance(act, Exception):
            raise act
        if isinstance(act, Step):
            return act
        try:
            await self.clock.sleep(act)
        except asyncio.CancelledError:
            self.cut.append(state)
            raise
        return Step(Signal.PASS)

    def deadline(self, state: State, run: Run) -> float:
        return self.limits.get(state, 60.0)

    async def at_rest(self, run: Run) -> None:
        self.entered.append(run.state)

    def verdict(self, run: Run) -> Change:
        outcome = Outcome.DONE if run.state is State.ACTIVE and not run.cause else Outcome.ROLLED_BACK
        return dataclasses.replace(run.change, outcome=outcome, message=run.cause)


@dataclasses.dataclass
class Stage:
    clock: FakeClock
    store: FakeStore
    script: Script
    runner: Runner[Run]
    seen: list[Change]
    run: Run


def stage() -> Stage:
    clock, store, seen = FakeClock(), FakeStore(), []
    script = Script(clock)
    run = Run(change(1, created=clock.time()), before=State.ACTIVE, state=State.PRECHECK)
    return Stage(clock, store, script, Runner(store, clock, script, seen.append), seen, run)


FORWARD = [State.PRECHECK, State.DRAIN, State.RELEASE, State.EVICT, State.WAIT_VRAM, State.START, State.WAIT_READY,
           State.VERIFY]  # fmt: skip


async def test_a_run_goes_forward_and_is_journaled_at_every_step() -> None:
    it = stage()
    it.script.steps[State.START] = 5.0
    await it.runner.drive(it.run)
    assert it.script.entered == [*FORWARD, State.ACTIVE]
    assert [p.phase for p in it.run.change.phases] == [s.value for s in FORWARD]
    assert it.run.change.phases[5].seconds == pytest.approx(5, abs=0.01)
    assert it.run.change.finished == pytest.approx(it.clock.time())
    assert it.store.saved["s1"] == it.run.change == it.seen[-1]
    written = [c.phase for c in it.store.writes]
    assert written[0] == "precheck"
    for state in (State.RELEASE, State.START):
        assert state.value in written, "what changes something is on disk before it begins"


async def test_a_phase_that_does_not_end_is_cut_at_its_deadline() -> None:
    it = stage()
    it.script.steps[State.WAIT_READY] = 1000.0
    it.script.limits[State.WAIT_READY] = 20.0
    await it.runner.drive(it.run)
    assert it.script.cut == [State.WAIT_READY]
    assert "wait-ready not finished within 20 s" in it.run.change.message
    assert it.run.change.outcome is Outcome.ROLLED_BACK
    assert State.ROLLBACK in it.script.entered


async def test_an_error_and_a_bug_both_lead_back() -> None:
    for error, text in ((AgentdError("x", "no such file"), "start: no such file"), (KeyError("x"), "internal error")):
        it = stage()
        it.script.steps[State.START] = error
        await it.runner.drive(it.run)
        assert text in it.run.cause
        assert State.CLEANUP in it.script.entered


async def test_a_cancel_cuts_the_phase_that_may_be_cut() -> None:
    it = stage()
    it.script.steps[State.DRAIN] = 1000.0
    driving = asyncio.ensure_future(it.runner.drive(it.run))
    await it.clock.advance(1)
    it.run.cancelled.set()
    await driving
    assert it.script.cut == [State.DRAIN]
    assert State.RELEASE not in it.script.entered, "nothing was touched"
    assert it.run.cause == "cancelled on request"


async def test_a_full_journal_refuses_at_the_beginning_and_stops_nothing_later() -> None:
    it = stage()
    it.store.fail = FULL
    with pytest.raises(AgentdError, match="the disk is full"):
        await it.runner.drive(it.run)
    assert it.script.entered == []
    it = stage()
    it.store.after_save = lambda _: setattr(it.store, "fail", FULL)
    await it.runner.drive(it.run)
    assert it.run.change.outcome is Outcome.DONE
