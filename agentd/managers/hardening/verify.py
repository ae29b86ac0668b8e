"""One look at one unit: what systemd has, what lies on the disk, what the kernel does, and the verdicts about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agentd.core.dropin import DropIn
from agentd.core.exposure import exposure
from agentd.core.judge import judge, paths_to_read
from agentd.core.proof import combine
from agentd.errors import AgentdError
from agentd.evidence import CanaryReport, HostEvidence, UnitEvidence, UnitView
from agentd.findings import Finding, Verdict
from agentd.managers.hardening.look import Looker
from agentd.types import Scope

ATTEMPTS, PAUSE = 20, 0.1
"""How often, and after how many seconds, a unit is looked at again whose processes have not begun."""


@dataclass(frozen=True, slots=True)
class UnitReport:
    """The verdicts about a unit at one moment. `invocation` tells one run of the unit from the next."""

    unit: str
    findings: tuple[Finding, ...]
    at: float = 0.0
    cpu_seconds: float = 0.0
    invocation: str = ""
    running: bool = False
    proven: bool = False
    """A canary of this invocation has its say in the findings."""
    score: float = 10.0
    """Exposure by what is in effect: 0 (everything) to 10 (nothing)."""
    systemd_score: float | None = None
    """systemd's own, by what is written; None while unknown."""

    def count(self, verdict: Verdict) -> int:
        return sum(finding.verdict is verdict for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a canary brought back, and for which run of the unit: it says nothing about another one."""

    invocation: str
    report: CanaryReport


class Verifier:
    """Stateless but for the looker's cache of the host; proofs are kept by the caller."""

    def __init__(self, looker: Looker, scope: Scope, *, unit_dir: str) -> None:
        self._looker = looker
        self._scope = scope
        self._unit_dir = unit_dir.rstrip("/")

    async def host(self, *, anew: bool = False) -> HostEvidence:
        """Kept from the first look on, unless it is wanted `anew`."""
        if anew:
            self._looker.forget()
        return await self._looker.host(self._scope)

    async def view(self, unit: str) -> UnitView:
        """Raises AgentdError("unit-not-found"), and when systemd cannot be asked."""
        view = await self._looker.view(unit, await self.host())
        if not view.state.exists:
            raise AgentdError("unit-not-found", f"there is no unit {unit}", hint=f"see: systemctl cat {unit}")
        return view

    async def verify(self, unit: str, expected: Sequence[DropIn] = (), *, proof: Proof | None = None) -> UnitReport:
        """`expected`: our declared drop-ins of any unit; others are passed over. Raises AgentdError when systemd
        cannot be asked; what cannot be read of the processes is a finding, and so is a unit that is missing."""
        host = await self.host()
        view = await self._looker.view(unit, host)
        ours = [d for d in expected if d.unit == unit]
        evidence = await self._executed(view, paths_to_read(view, host, ours, self._unit_dir))
        findings = judge(view, evidence, host, ours, self._unit_dir)
        counts = proof is not None and proof.invocation == view.state.invocation_id
        if proof is not None and counts:
            findings = combine(findings, proof.report, view, host)
        return UnitReport(
            unit,
            findings,
            at=evidence.read_at if evidence is not None else 0.0,
            cpu_seconds=evidence.cpu_seconds if evidence is not None else 0.0,
            invocation=view.state.invocation_id,
            running=evidence is not None,
            proven=counts,
            score=exposure(findings),
        )

    async def _executed(self, view: UnitView, paths: Sequence[str]) -> UnitEvidence | None:
        """Once every process has become its program: until then it is systemd's own fork, "(name)", and unconfined."""
        for _ in range(ATTEMPTS):
            evidence = await self._looker.evidence(view, paths)
            if evidence is None or not any(p.comm.startswith("(") for p in evidence.processes):
                return evidence
            await asyncio.sleep(PAUSE)
        return evidence
