"""agentd is cut off at every write of the journal in a switch with sleep; it starts again, and one model serves."""

from __future__ import annotations

import asyncio

import pytest
from fakes.rig import Rig, manager_of, sleep_settings, sleepers

from agentd.types import Change, Outcome
from agentd.wire import SwitchRequest

MOST_WRITES = 16


class Cut:
    """Cancels what drives the change at its n-th write, which is what a kill leaves of it."""

    def __init__(self, r: Rig, number: int, *, durable: bool) -> None:
        self.seen = 0
        self.reached = asyncio.Event()
        self._rig, self._number = r, number
        store = r.world.store
        if durable:
            store.after_save = self._write
        else:
            store.before_save = self._write

    def _write(self, change: Change) -> None:
        self.seen += 1
        if self.seen >= self._number:
            self.now()
            raise asyncio.CancelledError

    def now(self) -> None:
        for owner in self._rig.manager._owners.values():
            assert owner._driver is not None
            owner._driver.cancel()
        self.reached.set()

    def lift(self) -> None:
        self._rig.world.store.before_save = self._rig.world.store.after_save = None


async def again(r: Rig, **slot: object) -> Rig:
    await r.manager.close()
    config = sleep_settings(**slot)  # type: ignore[arg-type]
    new = manager_of(r.world, config)
    await new.manager.start(config)
    await r.world.clock.advance(200)
    await new.manager.ensure()
    return new


def awake(r: Rig) -> list[str]:
    return [n for n, m in r.world.models.items() if m.ready and not m.sleeping]


def settled(r: Rig) -> None:
    """One model serves and takes requests; whatever else is up sleeps, is known to, and turns requests away."""
    slot = r.board.slot("gpu0")
    assert slot is not None
    assert awake(r) == [slot.resident]
    assert not r.world.models[str(slot.resident)].paused
    asleep = tuple(n for n, m in r.world.models.items() if m.sleeping)
    assert slot.sleeping == asleep
    assert all(r.world.models[name].paused for name in asleep)


@pytest.mark.parametrize("fault", ["", "wake-500", "sleep-500", "canary"])
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("number", range(1, MOST_WRITES))
async def test_after_a_kill_at_any_write_one_model_serves(durable: bool, fault: str, number: int) -> None:
    r = await sleepers()
    await r.switch("dolphin")
    if fault == "canary":
        r.world.models["qwen"].canary = 500
    elif fault == "wake-500":
        r.world.models["qwen"].sleep.fault = fault
    else:
        r.world.models["dolphin"].sleep.fault = fault
    cut = Cut(r, number, durable=durable)
    change, _ = r.manager.switch(SwitchRequest("qwen"))
    ended = asyncio.ensure_future(r.end(change))
    reached = asyncio.ensure_future(cut.reached.wait())
    await asyncio.wait({ended, reached}, return_when=asyncio.FIRST_COMPLETED)
    was_cut = reached.done()
    ended.cancel()
    reached.cancel()
    cut.lift()
    new = await again(r)
    settled(new)
    assert not await r.world.store.open_changes()
    if number == MOST_WRITES - 1:
        assert not was_cut, "the switch writes more often than this test thinks"


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.3, 0.43, 0.5, 0.6, 0.7, 0.8, 1.0])
async def test_after_a_kill_at_any_moment_of_a_wake_one_model_serves(seconds: float) -> None:
    r = await sleepers()
    await r.switch("dolphin")
    r.manager.switch(SwitchRequest("qwen"))
    await r.world.clock.advance(seconds)
    settled(await again(r))


async def test_a_restart_of_agentd_leaves_sleepers_asleep() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    calls = len(r.world.units.calls)
    new = await again(r)
    settled(new)
    assert new.board.slot("gpu0").sleeping == ("qwen",)  # type: ignore[union-attr]
    assert r.world.units.calls[calls:] == []
    assert (await new.switch("qwen")).way == "wake"


@pytest.mark.parametrize("resident", ["dolphin", None])
async def test_a_kill_while_a_sleeper_alone_is_stopped_fails_nothing(resident: str | None) -> None:
    r = await sleepers()
    await r.switch("dolphin")
    if resident is None:
        r.world.units.die("vllm-dolphin.service", status=0)
        await r.manager.ensure()
    cut = Cut(r, 3, durable=True)  # As RELEASE begins.
    r.manager.stop("qwen")
    await cut.reached.wait()
    cut.lift()
    new = await again(r)
    slot = new.board.slot("gpu0")
    assert slot is not None
    assert (slot.resident, slot.state) == (resident, "active" if resident else "idle")
    (change,) = (c for c in new.changes.recent(9) if c.kind == "unload")
    assert (change.outcome, slot.cause) == (Outcome.CANCELLED, ""), change


async def test_the_server_is_believed_and_not_the_record() -> None:
    """Recorded as asleep, and awake: somebody woke it while agentd was away, and ended the other one."""
    r = await sleepers()
    await r.switch("dolphin")
    await r.manager.close()
    r.world.units.die("vllm-dolphin.service", status=0)
    await r.manager._ports.prober.http("http://127.0.0.1:8001/wake_up", timeout=5.0, method="POST")
    new = await again(r)
    slot = new.board.slot("gpu0")
    assert slot is not None
    assert (slot.resident, slot.sleeping) == ("qwen", ())


async def test_a_model_that_somebody_put_to_sleep_while_agentd_was_away_is_found_asleep_and_closed() -> None:
    r = await sleepers()
    await r.manager.close()
    await r.manager._ports.prober.http("http://127.0.0.1:8001/sleep?level=1", timeout=5.0, method="POST")
    assert not r.world.models["qwen"].paused
    new = await again(r)
    slot = new.board.slot("gpu0")
    assert slot is not None
    assert (slot.state, slot.resident, slot.sleeping) == ("idle", None, ("qwen",))
    assert r.world.models["qwen"].paused
    change = await new.switch("qwen")
    assert (change.outcome, change.way) == (Outcome.DONE, "wake")
    settled(new)


async def test_a_sleeper_whose_switch_is_set_to_stop_is_stopped() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    config = sleep_settings(switch="stop")
    await r.manager.apply(config)
    await r.manager.ensure()
    await r.world.clock.advance(5.0)
    assert not r.world.units.state("vllm-qwen.service").active_state.up
    assert r.board.slot("gpu0").sleeping == ()  # type: ignore[union-attr]


async def test_a_sleeper_that_is_not_configured_any_more_is_stopped() -> None:
    r = await sleepers()
    await r.switch("dolphin")
    config = sleep_settings("dolphin")
    await r.manager.apply(config)
    await r.world.clock.advance(5.0)
    assert not r.world.units.state("vllm-qwen.service").active_state.up
    assert r.world.store.slots["gpu0"].asleep == {}


@pytest.mark.parametrize("metrics", [True, False])
async def test_a_gate_that_a_crash_left_closed_is_opened_and_not_taken_for_a_sleep(metrics: bool) -> None:
    """A server that is paused says that it sleeps."""
    r = await sleepers()
    qwen = r.world.models["qwen"]
    qwen.running, qwen.sleep.metrics = 2, metrics
    r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(2.0)
    assert qwen.paused
    new = await again(r)
    settled(new)
    assert new.board.slot("gpu0").resident == "qwen"  # type: ignore[union-attr]
    assert qwen.sleep.slept == 0


async def test_an_unknown_level_is_read_from_the_metrics() -> None:
    r = await sleepers()
    await r.manager._ports.prober.http("http://127.0.0.1:8001/sleep?level=2", timeout=5.0, method="POST")
    await r.manager.ensure()
    assert r.world.store.slots["gpu0"].asleep == {"qwen": 2}
    change = await r.switch("qwen")
    assert change.way == "wake"
    assert not r.world.models["qwen"].sleep.garbled
