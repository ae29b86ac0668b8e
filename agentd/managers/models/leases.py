"""Leases of slots: one timer for each; when one is over, its model comes back as soon as there is room for it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from agentd.core.switch import State
from agentd.engine.events import EventLog
from agentd.managers.models.memory import Ask
from agentd.managers.models.slot import SlotOwner
from agentd.ports import Clock
from agentd.types import Change

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 300.0
"""Seconds until a model that found no room is tried again: whoever had the slot may take longer than the lease."""


@dataclass(frozen=True, slots=True)
class Late:
    """A lease that is over and whose model was asked back."""

    until: float
    """`lease_until` of the lease, which tells it from the next one."""
    tries: int = 0
    again: float = 0.0
    """Monotonic second from which on it may be tried again."""


class Leases:
    """`ask(owner, request)` begins a change; `later(work)` carries out what nobody waits for."""

    def __init__(
        self, owners: Mapping[str, SlotOwner], events: EventLog, clock: Clock,
        ask: Callable[[SlotOwner, Ask], tuple[Change, bool]], later: Callable[[Coroutine[None, None, None]], None],
    ) -> None:  # fmt: skip
        self._owners = owners
        self._events = events
        self._clock = clock
        self._ask = ask
        self._later = later
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._late: dict[str, Late] = {}

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def arm(self, owner: SlotOwner) -> None:
        """After a restart of agentd the lease goes on or, when past, ends now. A wedged slot waits for a person."""
        name, until = owner.ctx.name, owner.record.lease_until
        if until is None or owner.busy() or owner.state is State.WEDGED:
            return
        if owner.resident is None and owner.state in (State.IDLE, State.DEGRADED):
            owner.state = State.LEASED
            owner.publish()
        old = self._timers.pop(name, None)
        if old is not None:
            old.cancel()
        pause = self._late_of(owner).again - self._clock.monotonic()
        delay = max(0.0, until - self._clock.time(), pause)
        self._timers[name] = asyncio.get_running_loop().call_later(delay, self._past, name)

    def end(self, owner: SlotOwner) -> Change | None:
        """The change that brings the model back, or None when there is none to bring back. Told once for each lease."""
        name, restore = owner.ctx.name, owner.record.lease_restore
        late = self._late_of(owner)
        if not late.tries:
            self._events.emit("lease.ended", name, f"the lease of slot {name} is over", restore=restore)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(late.tries, 8))
        self._late[name] = Late(late.until, late.tries + 1, self._clock.monotonic() + pause)
        if restore is None or restore not in owner.ctx.models or owner.ctx.models[restore].off:
            owner.state = State.IDLE
            self._later(owner.save(dataclasses.replace(owner.record, lease_until=None, lease_restore=None)))
            owner.publish()
            return None
        return self._ask(owner, Ask("switch", restore, origin="lease-end"))[0]

    def _past(self, name: str) -> None:
        owner = self._owners.get(name)
        if owner is None or owner.busy() or owner.record.lease_until is None or owner.state is State.WEDGED:
            return
        if owner.record.lease_until > self._clock.time() + 0.5:
            self.arm(owner)  # Extended, or the wall clock was set back.
            return
        self.end(owner)

    def _late_of(self, owner: SlotOwner) -> Late:
        until = owner.record.lease_until or 0.0
        known = self._late.get(owner.ctx.name)
        return known if known is not None and known.until == until else Late(until)
