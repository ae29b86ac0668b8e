"""As test_switch_stateful, with models that sleep: never two awake, never more asleep than allowed, always a rest."""

from __future__ import annotations

import contextlib

from fakes.rig import manager_of, sleep_settings, sleepers
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from unit.test_switch_stateful import ALIVE, SlotMachine

from agentd.errors import AgentdError

NAMES = ("qwen", "dolphin", "phi")
SLEEP_FAULTS = st.sampled_from(
    ["", "keeps-memory", "half", "sleep-500", "sleep-hangs", "lies", "wake-500", "wake-hangs", "garbage", "awake-not"]
)


class SleepMachine(SlotMachine):
    @initialize(
        resident=st.sampled_from(["qwen", None]),
        default=st.sampled_from(["", "dolphin"]),
        switch=st.sampled_from(["sleep1", "sleep2", "auto"]),
        most=st.integers(0, 2),
    )
    def begin(self, resident: str | None, default: str, switch: str, most: int) -> None:
        self.most = most
        options = {"default": default, "max_sleepers": most, "sleep_reserve": 0}
        self.config = sleep_settings(*NAMES, switch=switch, **options)
        self.r = self.do(sleepers(*NAMES, resident=resident, switch=switch, **options))

    @rule(name=st.sampled_from(NAMES), fault=SLEEP_FAULTS)
    def plant_in_sleep(self, name: str, fault: str) -> None:
        self.r.world.models[name].sleep.fault = fault

    @rule(name=st.sampled_from(NAMES), count=st.integers(0, 3))
    def requests(self, name: str, count: int) -> None:
        if self.r.world.models[name].ready:
            self.r.world.models[name].running = count

    @rule(name=st.sampled_from(NAMES))
    def switch_to(self, name: str) -> None:
        self.switch(name, force=True, rollback=True)

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
    def switch_to_the_end(self, names: list[str]) -> None:
        """Most of what a sleeper is good for begins after a switch has ended."""
        for name in names:
            self.switch_to(name)
            self.wait(90.0)

    @rule(name=st.sampled_from(NAMES))
    def stop_model(self, name: str) -> None:
        self.do(self._ask(lambda: self.r.manager.stop(name)))

    @rule(name=st.sampled_from(NAMES))
    def sleep_by_hand(self, name: str) -> None:
        self.do(self._by_hand(name))

    async def _by_hand(self, name: str) -> None:
        with contextlib.suppress(AgentdError):
            url = f"http://127.0.0.1:{8001 + NAMES.index(name)}/sleep?level=1"
            await self.r.world.prober.http(url, timeout=5.0, method="POST")

    @rule(gib=st.sampled_from([2, 64]))
    def main_memory(self, gib: int) -> None:
        self.r.world.kernel.available = gib * 1024**3

    async def _crash(self) -> None:
        await self.r.manager.close()
        self.r = manager_of(self.r.world, self.config)
        await self.r.manager.start(self.config)
        await self.r.world.clock.settle()

    @invariant()
    def never_two_models(self) -> None:
        """Awake, that is."""
        if hasattr(self, "r"):
            up = [n for n in NAMES if self._alive(n) and not self.r.world.models[n].sleeping]
            assert len(up) <= 1, up

    def _alive(self, name: str) -> bool:
        return self.r.world.units.state(f"vllm-{name}.service").active_state.value in ALIVE

    async def _at_last(self) -> None:
        for name in NAMES:
            self.r.world.models[name].running = 0
        await super()._at_last()

    def teardown(self) -> None:
        try:
            if hasattr(self, "r"):
                self.do(self._left_alone())
        finally:
            super().teardown()

    async def _left_alone(self) -> None:
        """After the next look, who sleeps is known, is not too many, and turns requests away."""
        await self.r.world.clock.advance(3000.0)
        await self.r.manager.ensure()
        await self.r.world.clock.advance(200.0)
        await self.r.manager.ensure()
        slot = self.r.board.slot("gpu0")
        assert slot is not None
        asleep = {n for n in NAMES if self._alive(n) and self.r.world.models[n].sleeping}
        assert set(slot.sleeping) == asleep, (slot, asleep)
        assert len(asleep) <= self.most
        assert slot.resident is None or slot.resident not in asleep
        assert all(self.r.world.models[n].paused for n in asleep)


TestSleep = SleepMachine.TestCase
TestSleep.settings = hypothesis_settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
