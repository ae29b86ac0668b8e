"""What the API sees of the profile of use: a plan, and the change that puts another one into force."""

from __future__ import annotations

from agentd.core.use_plan import ProfilePlan, ProfileRequest
from agentd.managers.use_profiles.actions import ProfileActions
from agentd.types import Change


class ProfileSurface:
    """Implements api.operations_profile.ProfileOperations."""

    def __init__(self, actions: ProfileActions) -> None:
        self._actions = actions

    async def plan(self, request: ProfileRequest) -> ProfilePlan:
        return await self._actions.plan(request)

    async def use(self, request: ProfileRequest) -> Change:
        return await self._actions.use(request)
