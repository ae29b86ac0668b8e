"""What the API sees of the gateway: its snapshot, and actions that become changes."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.errors import ConflictError
from agentd.findings import Finding
from agentd.gateway import GatewayStatus
from agentd.managers.gateway.actions import GatewayActions
from agentd.managers.gateway.manager import GatewayManager
from agentd.types import Change
from agentd.wire import GatewayPlan, GatewayRequest


class GatewaySurface:
    """Implements api.operations_gateway.GatewayOperations."""

    def __init__(self, manager: GatewayManager, actions: GatewayActions) -> None:
        self._manager = manager
        self._actions = actions

    def status(self) -> GatewayStatus | None:
        return self._manager.status()

    def findings(self) -> Sequence[Finding]:
        return self._manager.findings()

    def problems(self) -> Sequence[str]:
        """What keeps agentd from being ready."""
        return self._manager.problems()

    def check_free(self, unit: str) -> None:
        """Raises ConflictError while a change is at work on the gateway of that unit."""
        change = self._manager.busy(unit)
        if change:
            raise ConflictError(f"change {change} is at work on {unit}", change)

    async def verify(self) -> GatewayStatus:
        return await self._manager.verify()

    async def plan(self, request: GatewayRequest) -> GatewayPlan:
        return await self._actions.plan(self._manager.gateway(), force=request.force)

    async def apply(self, request: GatewayRequest) -> Change:
        change, task = await self._actions.apply(self._manager.gateway(), force=request.force)
        self._manager.follow(task)
        return change

    async def restart(self) -> Change:
        change, task = await self._actions.restart(self._manager.gateway())
        self._manager.follow(task)
        return change

    async def rollback(self, request: GatewayRequest) -> Change:
        change, task = await self._actions.rollback(self._manager.gateway(), request.version)
        self._manager.follow(task)
        return change
