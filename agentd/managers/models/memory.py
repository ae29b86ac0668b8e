"""What a slot remembers across restarts of agentd: the wanted model, the lease, the cooldowns. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from agentd.core.backoff import cooldown_seconds
from agentd.core.schema import Slot
from agentd.core.switch import COMMITTED, Signal, State
from agentd.managers.models.context import SwitchRun
from agentd.ports import SlotRecord
from agentd.types import Outcome


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the owner understands it; `target` None empties the slot."""

    kind: str
    target: str | None
    drain: float | None = None
    on_busy: str | None = None
    force: bool = False
    rollback: bool = True
    lease: float | None = None
    origin: str = "api"
    only: str = ""
    """A sleeper that alone is to be stopped."""
    level: int = 0
    """Of a sleep-check."""


def remembered(record: SlotRecord, run: SwitchRun, slot: Slot, resident: str | None, now: float) -> SlotRecord:
    """The record after a change that touched the slot. A failed change does not alter what is wanted, nor does one that
    stopped a sleeper alone."""
    if run.only:
        return record
    if run.change.origin == "lease-end":
        record = dataclasses.replace(record, lease_until=None, lease_restore=None)
    if run.state in COMMITTED:
        record = dataclasses.replace(record, desired=resident, decided=True, lease_until=None, lease_restore=None)
    if run.state is State.LEASED and run.lease is not None:
        restore = run.previous.name if run.previous is not None else record.lease_restore
        record = dataclasses.replace(record, desired=restore, lease_until=now + run.lease, lease_restore=restore)
    return dataclasses.replace(record, cooldowns=_cooldowns(record, run, slot, now))


def _cooldowns(record: SlotRecord, run: SwitchRun, slot: Slot, now: float) -> dict[str, tuple[int, float]]:
    """A target that failed is left alone for a while, longer each time; one that works starts afresh. An end of agentd
    on the way is no failure of the target."""
    cooldowns = dict(record.cooldowns or {})
    if run.target is None or run.change.kind != "switch":
        return cooldowns
    cut_off = run.cancelled.is_set() or any(signal is Signal.CRASH for _, signal in run.path)
    failed = run.change.outcome in (Outcome.ROLLED_BACK, Outcome.DEGRADED) and not cut_off
    if failed:
        count = cooldowns.get(run.target.name, (0, 0.0))[0] + 1
        cooldowns[run.target.name] = (count, now + cooldown_seconds(count, base=slot.cooldown, cap=slot.cooldown_max))
    elif run.change.outcome is Outcome.DONE:
        cooldowns.pop(run.target.name, None)
    return cooldowns
