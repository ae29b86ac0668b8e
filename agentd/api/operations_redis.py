"""What the handlers of stores need of the daemon. `stores` reads the last snapshot; the rest asks the servers.

A name that is no store's is AgentdError("store-not-found") everywhere. "" means every store where one only looks, and
the only one where something is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentd.stores import StoreStatus
from agentd.types import Change
from agentd.wire import BackupRequest, EnforcePlan, StoreRequest


class RedisOperations(Protocol):
    def stores(self) -> Sequence[StoreStatus]: ...

    async def verify(self, store: str) -> Sequence[StoreStatus]:
        """Looks anew."""
        ...

    async def plan(self, store: str) -> Sequence[EnforcePlan]: ...

    async def enforce(self, request: StoreRequest) -> Change:
        """Begun and journaled; does not wait for its end. So are the next two."""
        ...

    async def drill(self, request: StoreRequest) -> Change: ...

    async def backup(self, request: BackupRequest) -> Change: ...
