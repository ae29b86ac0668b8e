"""When a store's next drill and backup are due."""

from __future__ import annotations

from typing import Literal

from agentd.core.schema_redis import RedisPolicy
from agentd.stores import StoreRecord

AGAIN = 600.0
"""Seconds until one that failed is tried again."""
Appointment = Literal["drill", "backup"]


class Schedule:
    def __init__(self, policy: RedisPolicy) -> None:
        self._every: dict[Appointment, float] = {"backup": policy.backup_every, "drill": policy.drill_every}
        self._tried: dict[Appointment, float] = {}

    def due(self, record: StoreRecord, now: float) -> Appointment | None:
        """The one whose time has come; it counts as tried then."""
        last: dict[Appointment, float] = {"backup": record.backup_at, "drill": record.drill_at}
        for name, every in self._every.items():
            if every and now - last[name] >= every and now - self._tried.get(name, 0.0) >= min(every, AGAIN):
                self._tried[name] = now
                return name
        return None
