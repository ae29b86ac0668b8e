"""Proves units of the user manager that it is run under, and prints what came of it as JSON by unit."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from agentd.adapters.canary_reports import CanaryReports
from agentd.adapters.inspector import LinuxInspector
from agentd.adapters.journal import JournalctlReader
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.unit_files import LocalUnitFiles
from agentd.core.judge import judge, paths_to_read
from agentd.core.proof import combine
from agentd.evidence import CanaryReport
from agentd.findings import Finding
from agentd.managers.hardening.look import Looker
from agentd.managers.hardening.prove import Prover
from agentd.ports_hardening import UnitQuery
from agentd.types import Scope

RUNTIME = os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")


class Bench:
    """All the parts, on one connection. `query` stands between the prover and systemd where a test wants to lie."""

    def __init__(
        self, control: SystemdControl, query: UnitQuery | None = None, reports: CanaryReports | None = None
    ) -> None:
        self.control = control
        self.reports = reports or CanaryReports(f"{RUNTIME}/agentd")
        self.looker = Looker(control, control, LinuxInspector(), LocalUnitFiles())
        self.prover = Prover(control, query or control, JournalctlReader(Scope.USER), self.reports)

    async def prove(self, unit: str) -> tuple[CanaryReport, tuple[Finding, ...]]:
        host = await self.looker.host(Scope.USER)
        view = await self.looker.view(unit, host)
        evidence = await self.looker.evidence(view, paths_to_read(view, host, (), ""))
        report = await self.prover.prove(view, host)
        return report, combine(judge(view, evidence, host, (), ""), report, view, host)


async def prove(units: Sequence[str]) -> dict[str, Any]:
    """{unit: {"report": ..., "findings": [...]}}"""
    control = SystemdControl(Scope.USER)
    await control.start_up()
    try:
        bench, answer = Bench(control), {}
        for unit in units:
            report, findings = await bench.prove(unit)
            answer[unit] = {"report": asdict(report), "findings": [asdict(finding) for finding in findings]}
        return answer
    finally:
        await control.close()


if __name__ == "__main__":
    json.dump(asyncio.run(prove(sys.argv[1:])), sys.stdout)
