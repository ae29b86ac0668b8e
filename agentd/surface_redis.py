"""What the API sees of the stores: names become servers, actions become changes."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.errors import ConflictError
from agentd.findings import Finding
from agentd.managers.redis.actions import RedisActions
from agentd.managers.redis.manager import RedisManager
from agentd.stores import StoreStatus
from agentd.types import Change
from agentd.wire import BackupRequest, EnforcePlan, StoreRequest


class RedisSurface:
    """Implements api.operations_redis.RedisOperations."""

    def __init__(self, manager: RedisManager, actions: RedisActions) -> None:
        self._manager = manager
        self._actions = actions

    def stores(self) -> Sequence[StoreStatus]:
        return self._manager.statuses()

    def findings(self) -> Sequence[Finding]:
        return self._manager.findings()

    def problems(self) -> Sequence[str]:
        """What keeps agentd from being ready."""
        return self._manager.problems()

    def check_free(self, unit: str) -> None:
        """Raises ConflictError while a change is at work on the store of that unit: stopped in its first rewrite, Redis
        refuses to end, or is killed at the worst moment."""
        change = self._manager.busy(unit)
        if change:
            raise ConflictError(f"change {change} is at work on the store of {unit}", change)

    async def verify(self, store: str) -> Sequence[StoreStatus]:
        return await self._manager.verify(store)

    async def plan(self, store: str) -> Sequence[EnforcePlan]:
        return [await self._actions.plan(found) for found in self._manager.stores(store)]

    async def enforce(self, request: StoreRequest) -> Change:
        change, task = await self._actions.enforce(self._manager.store(request.store), accept_loss=request.accept_loss)
        self._manager.follow(change, task)
        return change

    async def drill(self, request: StoreRequest) -> Change:
        change, task = await self._actions.drill(self._manager.store(request.store))
        self._manager.follow(change, task)
        return change

    async def backup(self, request: BackupRequest) -> Change:
        store = self._manager.store(request.store)
        change, task = await self._actions.backup(store, request.to, request.keep)
        self._manager.follow(change, task)
        return change
