"""The file that tells the gateway which model each slot holds: written at every change of a slot. It is left as it is
when agentd stops; the gateway believes it only while agentd lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from agentd.core.switch import RESTING, State
from agentd.engine.changes import ChangeBook
from agentd.errors import AgentdError
from agentd.ports import Clock, Files
from agentd.ports_gateway import Routes, SlotRoute
from agentd.types import Change, SlotStatus

log = logging.getLogger(__name__)

UNKNOWN_SECONDS = 30
"""For a switch that was never seen: vLLM takes from half a minute to several."""
LEAST = 1
AGAIN = 5.0
"""Seconds after which a write that failed is tried again."""
WAY_BACK = (State.CLEANUP, State.SETTLE, State.ROLLBACK)


def route(slot: SlotStatus, change: Change | None, estimate: float | None, now: float) -> SlotRoute:
    """From DRAIN on the model counts as absent: a request that reached it then would be cut off."""
    at_rest = slot.state in RESTING or slot.state == State.PRECHECK
    if at_rest:
        return SlotRoute(slot.resident, None, _seconds(estimate, 0.0))
    since = now - change.created if change is not None else 0.0
    return SlotRoute(None, _coming(slot, change), _seconds(estimate, since))


def _coming(slot: SlotStatus, change: Change | None) -> str | None:
    """On the way back it is the model that was there before."""
    if change is None:
        return None
    return change.previous if slot.state in WAY_BACK else change.target


def _seconds(estimate: float | None, since: float) -> int:
    return max(LEAST, math.ceil(estimate - since)) if estimate is not None else UNKNOWN_SECONDS


def text(routes: Routes, now: float) -> str:
    slots = {
        name: {"resident": r.resident, "switching_to": r.switching_to, "retry_after": r.retry_after}
        for name, r in sorted(routes.slots.items())
    }
    return json.dumps({"version": 1, "written": round(now, 3), "slots": slots}) + "\n"


class RouteWriter:
    """`note()` at every change of a slot; a task writes, so that nobody waits for the disk."""

    def __init__(
        self,
        files: Files,
        path: str,
        slots: Callable[[], Sequence[SlotStatus]],
        changes: ChangeBook,
        clock: Clock,
    ) -> None:
        self._files = files
        self._path = path
        self._slots = slots
        self._changes = changes
        self._clock = clock
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._written: Mapping[str, SlotRoute] | None = None
        self.problem = ""

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        self._news.set()

    def note(self, _: SlotStatus | None = None) -> None:
        self._news.set()

    def routes(self) -> Routes:
        now = self._clock.time()
        return Routes({slot.name: self._route(slot, now) for slot in self._slots()})

    def resident(self, slot: str, service: str) -> bool:
        found = self.routes().slots.get(slot)
        return found is not None and found.resident == service

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _route(self, slot: SlotStatus, now: float) -> SlotRoute:
        change = self._change(slot)
        if change is not None:
            return route(slot, change, self._changes.estimate(change.previous, change.target), now)
        others = (self._changes.estimate(slot.resident, model) for model in slot.models if model != slot.resident)
        return route(slot, None, max((e for e in others if e is not None), default=None), now)

    def _change(self, slot: SlotStatus) -> Change | None:
        if slot.change is None:
            return None
        with contextlib.suppress(AgentdError):
            return self._changes.find(slot.change)
        return None

    async def _run(self) -> None:
        while True:
            self._news.clear()
            wait = None if await self._write() else AGAIN
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()

    async def _write(self) -> bool:
        """What is already there is not written again, but for the seconds that pass."""
        routes = self.routes()
        if routes.slots == self._written:
            return True
        try:
            await self._files.apply({self._path: text(routes, self._clock.time())})
        except AgentdError as error:
            if not self.problem:
                log.warning("gateway.routes-not-written", extra={"data": {"error": error.message}})
            self.problem = error.message
            return False
        self._written, self.problem = routes.slots, ""
        return True
