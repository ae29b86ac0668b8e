"""Anything in any order: requests, cancels, deaths, bare starts, crashes of agentd. Never two models, always a rest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from fakes.rig import Rig, manager_of, rig, settings
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentd.core.switch import RESTING, State
from agentd.errors import AgentdError
from agentd.wire import LeaseRequest, SwitchRequest, UnloadRequest

MODELS = st.sampled_from(["qwen", "dolphin"])
FAULTS = st.sampled_from(
    ["never_ready", "canary", "served", "die", "gate", "ignore_sigterm", "orphan", "exit_on_start", "none"]
)
ALIVE = ("active", "activating")
GATE = "ValueError: Free memory on device (3.5/24.0 GiB) on startup is less than desired GPU memory utilization (0.9)."


class SlotMachine(RuleBasedStateMachine):
    """One machine's life, in virtual time on one loop."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.r: Rig

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize(resident=st.sampled_from(["qwen", None]), default=st.sampled_from(["", "dolphin"]))
    def begin(self, resident: str | None, default: str) -> None:
        self.config = settings(default=default)
        self.r = self.do(rig(resident, default=default))

    @rule(name=MODELS, force=st.booleans(), rollback=st.booleans())
    def switch(self, name: str, force: bool, rollback: bool) -> None:
        self.do(self._ask(lambda: self.r.manager.switch(SwitchRequest(name, force=force, rollback=rollback))))

    @rule()
    def unload(self) -> None:
        self.do(self._ask(lambda: self.r.manager.unload(UnloadRequest())))

    @rule(seconds=st.floats(5, 200))
    def lease(self, seconds: float) -> None:
        self.do(self._ask(lambda: self.r.manager.lease(LeaseRequest(seconds))))

    @rule()
    def cancel(self) -> None:
        slot = self.r.board.slot("gpu0")
        if slot is not None and slot.change is not None:
            change = slot.change
            self.do(self._ask(lambda: self.r.manager.cancel(change)))

    async def _ask(self, request: Any) -> None:
        with contextlib.suppress(AgentdError):
            request()
        await self.r.world.clock.settle()

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.1, 3.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.do(self._wait(seconds))

    async def _wait(self, seconds: float) -> None:
        await self.r.world.clock.advance(seconds)
        with contextlib.suppress(AgentdError):
            await self.r.manager.ensure()

    @rule(name=MODELS, fault=FAULTS)
    def plant(self, name: str, fault: str) -> None:
        model = self.r.world.models[name]
        model.never_ready, model.canary, model.served, model.die_loading = False, 200, "", None
        behaviour = model.behaviour
        behaviour.ignore_sigterm = behaviour.orphan = False
        behaviour.exit_on_start = None
        match fault:
            case "never_ready":
                model.never_ready = True
            case "canary":
                model.canary = 500
            case "served":
                model.served = "other"
            case "die":
                model.die_loading = (2.0, 1, "boom")
            case "gate":
                model.die_loading = (2.0, 1, GATE)
            case "ignore_sigterm" | "orphan":
                setattr(behaviour, fault, True)
            case "exit_on_start":
                behaviour.exit_on_start = 1

    @rule(name=MODELS)
    def crash_model(self, name: str) -> None:
        if self.r.world.units.state(f"vllm-{name}.service").active_state.value in ALIVE:
            self.do(self._call(self.r.world.models[name].crash))

    async def _call(self, function: Any) -> None:
        function()
        await self.r.world.clock.settle()

    @rule(name=MODELS)
    def start_by_hand(self, name: str) -> None:
        self.do(self._bare("start", name))

    @rule(name=MODELS)
    def stop_by_hand(self, name: str) -> None:
        self.do(self._bare("stop", name))

    async def _bare(self, verb: str, name: str) -> None:
        with contextlib.suppress(AgentdError):
            await getattr(self.r.world.units, verb)(f"vllm-{name}.service")
        await self.r.world.clock.settle()

    @rule()
    def crash_agentd(self) -> None:
        self.do(self._crash())

    async def _crash(self) -> None:
        await self.r.manager.close()
        self.r = manager_of(self.r.world, self.config)
        await self.r.manager.start(self.config)
        await self.r.world.clock.settle()

    @invariant()
    def never_two_models(self) -> None:
        if hasattr(self, "r"):
            up = [n for n in ("qwen", "dolphin")
                  if self.r.world.units.state(f"vllm-{n}.service").active_state.value in ALIVE]  # fmt: skip
            assert len(up) <= 1, up

    @invariant()
    def the_state_has_a_name(self) -> None:
        if hasattr(self, "r"):
            slot = self.r.board.slot("gpu0")
            assert slot is None or slot.state in State._value2member_map_

    def teardown(self) -> None:
        try:
            if hasattr(self, "r"):
                self.do(self._at_last())
        finally:
            self.runner.close()

    async def _at_last(self) -> None:
        """Left alone for longer than all deadlines together, everything is at rest and nothing is open."""
        await self.r.world.clock.advance(1500.0)
        slot = self.r.board.slot("gpu0")
        assert slot is not None
        assert slot.state in RESTING, slot
        assert slot.change is None
        assert not await self.r.world.store.open_changes()
        for change in self.r.world.store.saved.values():
            assert change.outcome is not None
            retries = sum(p.result == "retry" for p in change.phases)
            assert retries <= 1
            assert sum(p.phase == "start" for p in change.phases) <= 1 + retries
        await self.r.manager.close()


TestSlot = SlotMachine.TestCase
TestSlot.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
