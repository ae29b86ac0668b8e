"""What the handlers of the gateway need of the daemon. `status` reads the last snapshot; the rest asks or acts.

Without a gateway in the configuration everything but `status` is AgentdError("gateway-not-found").
"""

from __future__ import annotations

from typing import Protocol

from agentd.gateway import GatewayStatus
from agentd.types import Change
from agentd.wire import GatewayPlan, GatewayRequest


class GatewayOperations(Protocol):
    def status(self) -> GatewayStatus | None: ...

    async def verify(self) -> GatewayStatus:
        """Looks anew."""
        ...

    async def plan(self, request: GatewayRequest) -> GatewayPlan: ...

    async def apply(self, request: GatewayRequest) -> Change:
        """Begun and journaled; does not wait for its end. So are the next two."""
        ...

    async def rollback(self, request: GatewayRequest) -> Change: ...

    async def restart(self) -> Change:
        """With the file as it is, for another environment; without an interruption where there is a standby."""
        ...
