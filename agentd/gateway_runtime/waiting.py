"""A request for a model that is absent: what it gets, by the model's `when_absent`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .absence import Absence
from .asking import Asking
from .flight import Flight

POLL = 0.1
"""Seconds between two looks at the routes: one stat for each request that waits."""
AGAIN = 1.0
"""Seconds until agentd is asked again when another change kept it from a switch ..."""
UNSEEN = 5.0
"""... and when it said yes, but the routes show no switch."""
_MARGIN = 1.0
"""A drain refuses those who wait so many seconds before it ends."""


class Absent(Exception):
    """The model is not there and nothing else may answer. `retry_after` in seconds."""

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Waiting:
    """`wait`: the longest time that a request is held, in seconds."""

    def __init__(
        self,
        absence: Absence,
        asking: Asking,
        flight: Flight,
        wait: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._absence = absence
        self._asking = asking
        self._flight = flight
        self._wait = wait
        self._clock = clock

    async def admit(self, name: str, *, fallbacks: bool = True) -> tuple[str, ...]:
        """Returns when LiteLLM may route the request: (), the model is there; else the fallbacks that are, the first of
        which is to answer. Raises Absent. `fallbacks` False: the request itself forbids them."""
        found = self._absence.of(name)
        if found is None:
            return ()
        way = found[0].when_absent
        if way in ("wait", "switch"):
            await self._until_there(name, ask=way == "switch")
            return ()
        ways = self._absence.ways(name) if way == "fallback" and fallbacks else ()
        if not ways:
            raise self.refusal(name)
        return ways

    def refusal(self, name: str, why: str = "") -> Absent:
        """The error for a model that is absent now."""
        found = self._absence.of(name)
        if found is None:
            return Absent(f"the model {name} was not available: try again", 1)
        model, route = found
        held = f"slot {model.slot} is switching to {route.switching_to}" if route.switching_to else ""
        held = held or (
            f"slot {model.slot} holds {route.resident}" if route.resident else f"slot {model.slot} is empty"
        )
        return Absent(f"the model {name} is not available now: {why or held}", route.retry_after)

    async def _until_there(self, name: str, *, ask: bool) -> None:
        end = self._clock() + self._wait
        ask_at, underway = self._clock() if ask else float("inf"), False
        while (found := self._absence.of(name)) is not None:
            model, route = found
            if route.switching_to == model.service:
                underway = True
            elif underway and ask:
                raise self.refusal(name, "the switch to it failed")
            elif self._clock() >= ask_at:
                answer = await self._asking.switch(model.service)
                if answer.problem and not answer.busy:
                    raise self.refusal(name, answer.problem)
                ask_at = self._clock() + (AGAIN if answer.busy else UNSEEN)
            now = self._clock()
            if now >= min(end, self._flight.ends - _MARGIN):
                restarts = self._flight.draining and now < end
                raise self.refusal(name, "the gateway restarts" if restarts else "")
            await asyncio.sleep(POLL)
