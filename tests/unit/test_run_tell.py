"""A running phase tells what it is doing: shown to who follows, not journaled, gone when the phase ends."""

from __future__ import annotations

from dataclasses import replace

from fakes import FakeClock, FakeStore

from agentd.core.switch import Signal, State
from agentd.engine.runner import Run, Runner, Step
from agentd.types import Change, Outcome


class Talking:
    """Every phase says two things and passes."""

    async def perform(self, state: State, run: Run) -> Step:
        run.tell(f"{state.value}: half")
        run.tell(f"{state.value}: half")
        run.tell(f"{state.value}: nearly")
        return Step(Signal.PASS, f"{state.value}: all" if state is not State.DRAIN else "")

    def deadline(self, state: State, run: Run) -> float:
        return 60.0

    async def at_rest(self, run: Run) -> None:
        run.tell("too late")

    def verdict(self, run: Run) -> Change:
        return replace(run.change, outcome=Outcome.DONE)


def new_run() -> Run:
    change = Change("s1", "switch", "gpu0", "qwen", None, 0.0, State.PRECHECK.value)
    return Run(change, State.IDLE, State.PRECHECK)


async def test_it_is_shown_while_the_phase_runs_and_replaced_by_its_end() -> None:
    store, shown = FakeStore(), []
    runner: Runner[Run] = Runner(store, FakeClock(), Talking(), shown.append)
    run = new_run()
    await runner.drive(run)
    running = [p for c in shown for p in c.phases[-1:] if p.seconds is None and p.detail]
    assert [p.detail for p in running[:4]] == ["precheck: half", "precheck: nearly", "drain: half", "drain: nearly"]
    ends = {p.phase: p.detail for p in shown[-1].phases}
    assert ends["precheck"] == "precheck: all"
    assert ends["drain"] == "", "what a phase said on the way is not what it did"
    assert "too late" not in ends.values()


async def test_it_is_not_journaled_and_nobody_need_listen() -> None:
    saved: list[Change] = []
    store = FakeStore()
    save = store.save_change

    async def note(change: Change) -> None:
        saved.append(change)
        await save(change)

    store.save_change = note  # type: ignore[method-assign]
    run = new_run()
    run.tell("nobody is there, and no phase has begun")
    assert run.change.phases == ()
    await Runner(store, FakeClock(), Talking(), lambda _: None).drive(run)
    assert saved
    assert not [p for c in saved for p in c.phases if p.seconds is None and p.detail]
