"""agentd's own verdict about a unit, put together from the parts that the daemon uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agentd import paths
from agentd.adapters.canary_reports import CanaryReports
from agentd.adapters.inspector import LinuxInspector
from agentd.adapters.journal import JournalctlReader
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.unit_files import LocalUnitFiles
from agentd.core.proof import combine
from agentd.findings import Finding
from agentd.managers.hardening.look import Looker
from agentd.managers.hardening.prove import Prover
from agentd.managers.hardening.verify import Verifier
from agentd.types import JobResult, Scope

PATIENCE = 60.0
"""Seconds. The machine has one slow CPU."""


class Verdicts:
    """Of one manager. Raises AgentdError where systemd cannot be asked."""

    def __init__(self, control: SystemdControl, scope: Scope) -> None:
        system = scope is Scope.SYSTEM
        self.control = control
        looker = Looker(control, control, LinuxInspector(), LocalUnitFiles())
        self._verifier = Verifier(looker, scope, unit_dir=str(paths.unit_dir(system=system)))
        reports = CanaryReports(str(paths.runtime_dir(system=system)))
        self._prover = Prover(control, control, JournalctlReader(scope), reports)

    async def start(self, unit: str) -> JobResult:
        return await (await self.control.start(unit)).wait(PATIENCE)

    async def exit_status(self, unit: str) -> int:
        found = (await self.control.properties(unit))["ExecMainStatus"]
        assert isinstance(found, int)
        return found

    async def outside(self, unit: str) -> Sequence[Finding]:
        """By what can be read from outside."""
        return (await self._verifier.verify(unit)).findings

    async def proven(self, unit: str, findings: Sequence[Finding]) -> Sequence[Finding]:
        """The same with a canary's word."""
        view, host = await self._verifier.view(unit), await self._verifier.host()
        return combine(findings, await self._prover.prove(view, host), view, host)


@asynccontextmanager
async def verdicts(scope: Scope) -> AsyncIterator[Verdicts]:
    control = SystemdControl(scope)
    await control.start_up()
    assert control.connected, control.problem
    try:
        yield Verdicts(control, scope)
    finally:
        await control.close()
