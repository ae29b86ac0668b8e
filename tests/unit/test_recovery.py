"""What was cut off is brought to its end once systemd is back: when it is tried, how often, and by one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
from fakes import FakeClock, FakeStore
from unit.install_rig import A, Killed, Rig, Steps, at, rig, security

from agentd.core.dropin import DropIn
from agentd.core.schema import Settings
from agentd.engine import steps
from agentd.engine.changes import ChangeBook
from agentd.errors import AgentdError, BusError
from agentd.managers.hardening.actions import ActionParts, HardeningActions
from agentd.managers.hardening.manager import HardeningManager
from agentd.managers.hardening.prove import Prover
from agentd.managers.hardening.recovery import AGAIN, LONGEST_PAUSE, Recovery
from agentd.managers.hardening.verify import Verifier
from agentd.types import Change, Outcome

LOST = BusError("bus-down", "cannot reach systemd: the bus is gone")
ONE, TWO = security(A, "PrivateTmp=yes"), security(A, "PrivateTmp=no")


class Tries:
    """A recovery that goes as `answers` say, one after the other; "" for ever after the last."""

    def __init__(self, *answers: AgentdError | str) -> None:
        self.clock = FakeClock()
        self.recovery = Recovery(self._recover, self._done, self.clock)
        self.times: list[float] = []
        self.done: list[str] = []
        self.at_once = self.most_at_once = 0
        self.during: Callable[[], None] = lambda: None
        self._answers = list(answers)

    async def _recover(self) -> str:
        self.times.append(self.clock.monotonic())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.during()
        await asyncio.sleep(0.5)
        self.at_once -= 1
        answer = self._answers.pop(0) if self._answers else ""
        if isinstance(answer, AgentdError):
            raise answer
        return answer

    async def _done(self, said: str) -> None:
        self.done.append(said)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.recovery.run())
        yield
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_once_at_the_start_and_not_at_every_reload() -> None:
    it = Tries("set 1 is undone")
    async with it.running():
        for _ in range(3):
            await it.clock.advance(2 * AGAIN)
            it.recovery.systemd_is_back()
    assert it.done == ["set 1 is undone"]
    assert len(it.times) == 1


async def test_a_lost_bus_is_waited_for() -> None:
    it = Tries(LOST, "set 1 is undone")
    async with it.running():
        await it.clock.advance(10)
        assert (len(it.times), it.done) == (1, [])
        it.recovery.systemd_is_back()
        await it.clock.advance(1)
        assert it.done == ["set 1 is undone"]


async def test_news_during_a_try_is_not_lost() -> None:
    it = Tries(LOST, "done")
    it.during = it.recovery.systemd_is_back
    async with it.running():
        await it.clock.advance(5)
    assert it.done == ["done"]


async def test_a_slow_bus_is_asked_again_without_news() -> None:
    it = Tries(BusError("bus-timeout", "systemd does not answer"), "done")
    async with it.running():
        await it.clock.advance(AGAIN + 5)
    assert it.done == ["done"]


async def test_another_failure_is_told_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    it = Tries(AgentdError("sets-damaged", "it is damaged"))
    async with it.running():
        await it.clock.advance(1)
        it.recovery.systemd_is_back()
        await it.clock.advance(2 * AGAIN)
    assert (len(it.times), it.done) == (1, [])
    assert [record.message for record in caplog.records] == ["hardening.not-recovered"]


async def test_one_at_a_time_and_less_and_less_often() -> None:
    """Each try is news by itself when it reloads systemd."""
    it = Tries(*[LOST] * 100)

    async def flood() -> None:
        while True:
            it.recovery.systemd_is_back()
            await asyncio.sleep(0.1)

    news = asyncio.ensure_future(flood())
    async with it.running():
        await it.clock.advance(600)
    news.cancel()
    assert it.most_at_once == 1
    pauses = [later - earlier for earlier, later in zip(it.times, it.times[1:], strict=False)]
    assert pauses[:3] == pytest.approx([1.5, 2.5, 4.5], abs=0.2)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, abs=1)


async def test_an_installation_that_loses_the_bus_owes_a_recovery() -> None:
    it = Tries()
    async with it.running():
        await it.clock.advance(1)
        with pytest.raises(AgentdError), it.recovery.owed():
            raise AgentdError("dropin-not-loaded", "systemd does not load it")
        await it.clock.advance(1)
        assert len(it.times) == 1
        with pytest.raises(BusError), it.recovery.owed():
            raise LOST
        await it.clock.advance(1)
        assert len(it.times) == 2


class Watcher:
    """What the actions need of the manager."""

    desired: Sequence[DropIn] = (TWO,)

    def __init__(self) -> None:
        self.on_reload: list[Callable[[], None]] = []
        self.files: list[str] = []

    def unit_changed(self, unit: str | None) -> None:
        if unit is None:
            for listener in self.on_reload:
                listener()

    def file_changed(self, path: str) -> None:
        self.files.append(path)


class Acting:
    """The actions on an installer's rig; systemd's news reach them by the manager."""

    def __init__(self, it: Rig) -> None:
        self.it, self.store, self.watcher = it, FakeStore(), Watcher()
        self.changes = ChangeBook(self.store)
        it.units.on_change(self.watcher.unit_changed)
        self.actions = HardeningActions(
            ActionParts(
                cast(HardeningManager, self.watcher),
                it.installer,
                cast(Prover, None),
                cast(Verifier, None),
                steps.Steps(self.store, self.changes, it.events, it.world.clock),
                Settings,
                "/config.d",
                self._ready,
            )
        )

    async def _ready(self, unit: str, timeout: float) -> None:
        return

    def pending(self) -> bool:
        return any(path.endswith("/pending.json") for path in self.it.state.texts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.actions.start())
        await self.it.world.clock.advance(1)
        yield
        task.cancel()
        await asyncio.wait({task})
        await self.actions.close()


async def test_a_crash_and_then_a_lost_bus() -> None:
    killed = rig()
    await killed.install(ONE)
    with Steps(killed, 4), pytest.raises(Killed):
        await killed.install(TWO)
    acting = Acting(rig(old=killed))
    units, clock = killed.units, killed.world.clock
    cut_off = Change("d1", "dropins", "", None, None, clock.time(), "plan")
    await acting.store.save_change(cut_off)
    units.drop_bus()
    async with acting.running():
        assert acting.pending()
        assert await acting.store.open_changes() == (cut_off,)
        units.restore_bus()
        await clock.advance(5)
        assert not acting.pending()
        assert units.loaded[A][at(A)] == acting.it.files.texts[at(A)] == TWO.text
        assert acting.store.saved["d1"].outcome is Outcome.RECOVERED
        assert "is now installed" in acting.store.saved["d1"].message
        assert acting.watcher.files == [""], "everything is looked at again"


async def test_an_installation_whose_bus_went_away_is_undone_when_it_is_back() -> None:
    it = rig()
    await it.install(ONE)
    acting = Acting(it)
    async with acting.running():
        it.units.refuse["reload"] = LOST
        change = await acting.actions.apply([], restart=False, force=False)
        await it.world.clock.advance(120)
        assert acting.store.saved[change.id].outcome is Outcome.REFUSED
        assert acting.pending()
        reloads = it.reloads
        it.units.refuse.clear()
        it.units.announce(None)
        await it.world.clock.advance(LONGEST_PAUSE)
        assert not acting.pending()
        assert it.reloads == reloads + 1
        assert it.files.texts[at(A)] == ONE.text
        assert acting.store.saved[change.id].outcome is Outcome.REFUSED, "it has ended already"
