"""Against thrashing: switches that nobody at a keyboard asked for must leave the present model some time to work."""

from __future__ import annotations

from collections import deque

from agentd.core.schema import Slot
from agentd.engine.counters import Counters
from agentd.errors import AgentdError

BUDGET = 6
WINDOW = 600.0
"""So many automatic switches of a slot within so many seconds; the next one is refused."""


class Thrift:
    """Of one slot. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._resident: str | None = None
        self._since = float("-inf")
        self._switches: deque[float] = deque(maxlen=BUDGET)

    def see(self, resident: str | None, now: float) -> None:
        """Told at every change of the slot; the time of a model begins when it is first seen."""
        if resident != self._resident:
            self._resident, self._since = resident, now

    def spend(self, now: float) -> None:
        """An automatic switch has touched the slot; one that was refused has cost nobody anything."""
        self._switches.append(now)

    def check(self, slot: Slot, name: str, now: float, counters: Counters, refusal: str) -> None:
        """Before an automatic switch begins. Raises AgentdError("switch-suppressed") when it must not yet, and
        ("switch-refused") for what refuses a plain one (`refusal`, "" for nothing): a request is answered at once, and
        leaves no change behind, however often it comes."""
        if refusal:
            counters.add("agentd_switch_suppressed", "refused")
            raise AgentdError("switch-refused", refusal)
        left = self._since + slot.min_residency - now
        if self._resident is not None and left > 0:
            counters.add("agentd_switch_suppressed", "min-residency")
            raise AgentdError(
                "switch-suppressed",
                f"{self._resident} has slot {name} for {left:.0f} s more before a request may take it away",
            )
        if len(self._switches) == BUDGET and now - self._switches[0] < WINDOW:
            counters.add("agentd_switch_suppressed", "budget")
            until = self._switches[0] + WINDOW - now
            raise AgentdError(
                "switch-suppressed",
                f"requests have switched slot {name} {BUDGET} times within {WINDOW / 60:.0f} min; "
                f"the next one may in {until:.0f} s",
            )
