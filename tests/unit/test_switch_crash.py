"""agentd is cut off before and after every write of the journal, in good and bad switches; then it starts again."""

from __future__ import annotations

import asyncio

import pytest
from fakes.rig import Rig, manager_of, rig, settings

from agentd.types import Change, Outcome
from agentd.wire import SwitchRequest

MOST_WRITES = 14


class Cut:
    """Cancels the driving task at the n-th write, which is what a kill leaves of it; `durable` says on which side."""

    def __init__(self, r: Rig, number: int, *, durable: bool) -> None:
        self.seen = 0
        self.reached = asyncio.Event()
        self._rig = r
        self._number = number
        store = r.world.store
        if durable:
            store.after_save = self._write
        else:
            store.before_save = self._write

    def _write(self, change: Change) -> None:
        self.seen += 1
        if self.seen >= self._number:
            for owner in self._rig.manager._owners.values():
                assert owner._driver is not None
                owner._driver.cancel()
            self.reached.set()
            raise asyncio.CancelledError

    def lift(self) -> None:
        self._rig.world.store.before_save = self._rig.world.store.after_save = None


def starts_of(r: Rig, unit: str) -> int:
    return sum(1 for call in r.world.units.calls if call == ("start", unit))


async def cut_off(number: int, *, durable: bool, canary: int) -> tuple[Rig, Rig, bool]:
    """The rig that was killed, the one that came after, and whether the kill happened before the switch was over."""
    r = await rig()
    r.world.models["dolphin"].canary = canary
    cut = Cut(r, number, durable=durable)
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    ended = asyncio.ensure_future(r.end(change))
    reached = asyncio.ensure_future(cut.reached.wait())
    await asyncio.wait({ended, reached}, return_when=asyncio.FIRST_COMPLETED)
    was_cut = reached.done()
    ended.cancel()
    reached.cancel()
    cut.lift()
    await r.manager.close()
    again = manager_of(r.world, settings())
    await again.manager.start(settings())
    await r.world.clock.advance(200)
    return r, again, was_cut


@pytest.mark.parametrize("canary", [200, 500])
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("number", range(1, MOST_WRITES))
async def test_after_a_kill_at_any_write_exactly_one_model_serves(durable: bool, canary: int, number: int) -> None:
    r, again, was_cut = await cut_off(number, durable=durable, canary=canary)
    serving = r.world.serving()
    assert len(serving) == 1
    assert again.board.slot("gpu0").resident == serving[0]  # type: ignore[union-attr]
    assert not await r.world.store.open_changes()
    assert two_at_once(r) == 0
    if number == MOST_WRITES - 1:
        assert not was_cut, "the switch writes more often than this test thinks"


def two_at_once(r: Rig) -> int:
    """Moments at which both units were active."""
    active: set[str] = {"vllm-qwen.service"}
    count = 0
    for _, unit, state in r.world.units.history:
        if state.value in ("active", "activating"):
            active.add(unit)
        elif state.value in ("inactive", "failed"):
            active.discard(unit)
        count += len(active) > 1
    return count


async def test_an_end_of_agentd_is_no_failure_of_the_target() -> None:
    r = await rig()
    r.manager.switch(SwitchRequest("dolphin"))
    await r.world.clock.advance(3.0)
    await r.manager.close()
    again = manager_of(r.world, settings())
    await again.manager.start(settings())
    await r.world.clock.advance(200)
    assert r.world.serving() == ["qwen"]
    assert again.board.slot("gpu0").cooldowns == {}  # type: ignore[union-attr]


async def test_a_healthy_target_found_after_the_crash_is_kept_not_restarted() -> None:
    r = await rig()
    change, _ = r.manager.switch(SwitchRequest("dolphin"))
    verifying = asyncio.Event()
    r.world.store.after_save = lambda c: verifying.set() if c.phase == "verify" else None
    await verifying.wait()
    await r.manager.close()
    assert r.world.serving() == ["dolphin"]
    starts = starts_of(r, "vllm-dolphin.service")
    again = manager_of(r.world, settings())
    await again.manager.start(settings())
    await r.world.clock.advance(60)
    assert starts_of(r, "vllm-dolphin.service") == starts
    assert r.world.serving() == ["dolphin"]
    ended = again.changes.find(change.id)
    assert ended.outcome is Outcome.RECOVERED


async def test_a_restart_of_agentd_leaves_a_running_model_alone() -> None:
    r = await rig()
    await r.manager.close()
    calls = len(r.world.units.calls)
    again = manager_of(r.world, settings(default="dolphin"))
    await again.manager.start(settings(default="dolphin"))
    await r.world.clock.advance(60)
    assert r.world.units.calls[calls:] == []
    assert again.board.slot("gpu0").resident == "qwen"  # type: ignore[union-attr]
