"""What the handlers of the profile of use need of the daemon.

Both read the configuration's files. What is wrong in them is a ConfigError with all of it, a name that is no profile's
AgentdError("profile-not-found").
"""

from __future__ import annotations

from typing import Protocol

from agentd.core.use_plan import ProfilePlan, ProfileRequest
from agentd.types import Change


class ProfileOperations(Protocol):
    async def plan(self, request: ProfileRequest) -> ProfilePlan: ...

    async def use(self, request: ProfileRequest) -> Change:
        """Begun and journaled; does not wait for its end."""
        ...
