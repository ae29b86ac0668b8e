"""Hardening made of plain values, for the API and the command line."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.types import Change, Outcome
from agentd.wire import DropinSet, DropinsPlan, DropinsRequest, PlannedFile, RollbackRequest, UnitSummary

UNIT = "litellm.service"
HELD = Finding(UNIT, "NoNewPrivileges", Verdict.EFFECTIVE, Severity.OK, "yes", "yes", "NoNewPrivs 1")
VOID = Finding(
    UNIT,
    "ProtectSystem",
    Verdict.NOT_EFFECTIVE,
    Severity.ERROR,
    "strict",
    "strict",
    "/usr is writable",
    "systemd 252 skips it in a user unit without PrivateUsers=yes",
    "add PrivateUsers=yes",
    "/etc/systemd/user/litellm.service.d/security.conf:3",
)


class FakeHardening:
    def __init__(self) -> None:
        self.asked: list[object] = []
        self.planned: tuple[PlannedFile, ...] = ()
        self.adopted: list[str] = []

    def reports(self) -> Sequence[UnitSummary]:
        return (UnitSummary(UNIT, True, False, 1.8e9, 0.004, 3.1, {"effective": 1, "not-effective": 1}),)

    def findings(self) -> Sequence[Finding]:
        return (VOID, HELD)

    def texts(self, unit: str) -> Sequence[tuple[str, str]]:
        return ((f"/units/{UNIT}.d/90-agentd-security.conf", "# why\n[Service]\nNoNewPrivileges=yes\n"),)

    async def plan(self, unit: str, *, force: bool) -> DropinsPlan:
        self.asked.append((unit, force))
        return DropinsPlan(self.planned, ("security.conf sets ProtectHome= too and sorts later",))

    async def apply(self, request: DropinsRequest) -> Change:
        self.asked.append(request)
        return self._change("2 files installed")

    async def rollback(self, request: RollbackRequest) -> Change:
        if request.set == "99":
            raise AgentdError("set-not-found", "there is no set 99", hint="see: agentctl dropins show --sets")
        self.asked.append(request)
        return self._change(f"set {request.set} is back")

    async def sets(self) -> Sequence[DropinSet]:
        return (DropinSet("2", 1.8e9, "apply", (f"{UNIT}.d/90-agentd-security.conf",)),)

    async def adopt(self, unit: str) -> Sequence[str]:
        return self.adopted

    async def verify(self, unit: str) -> Sequence[Finding]:
        return self.findings()

    async def prove(self, unit: str) -> Sequence[Finding]:
        return (HELD,)

    def _change(self, message: str) -> Change:
        return Change("d1", "dropins", "", None, None, 1.8e9, "done", 1.8e9, Outcome.DONE, exit_code=0, message=message)
