"""Profiles of use of a daemon that is made of plain values: settable plan, recorded requests."""

from __future__ import annotations

from agentd.core.use_plan import ProfilePlan, ProfileRequest, SettingChange
from agentd.errors import AgentdError
from agentd.types import Change, PhaseRecord

NOW = 1_800_000_000.0


class FakeProfiles:
    """Implements api.operations_profile.ProfileOperations."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ProfileRequest]] = []
        self.fail: AgentdError | None = None
        self.a_plan = ProfilePlan(
            "testing",
            "production",
            start=("mock",),
            stop=("ollama",),
            unload=("qwen",),
            settings=(SettingChange("daemon.log_level", '"info"', '"debug"'),),
            notes=("what concerns vLLM's own flags counts from the next start of: qwen",),
        )

    async def plan(self, request: ProfileRequest) -> ProfilePlan:
        self._asked("plan", request)
        return self.a_plan

    async def use(self, request: ProfileRequest) -> Change:
        self._asked("use", request)
        return Change(
            "p1", "profile", "", request.name or "none", "production", NOW, "plan", phases=(PhaseRecord("plan", NOW),)
        )

    def _asked(self, verb: str, request: ProfileRequest) -> None:
        self.calls.append((verb, request))
        if self.fail is not None:
            raise self.fail
