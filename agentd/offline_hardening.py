"""Verification and proof without a daemon: the same parts, put together for one question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentd import paths, resources
from agentd.adapters.canary_reports import CanaryReports
from agentd.adapters.inspector import LinuxInspector
from agentd.adapters.journal import JournalctlReader
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.unit_files import LocalUnitFiles
from agentd.core.hostcheck import host_findings
from agentd.core.profile import desired, shortfalls
from agentd.core.schema import Settings
from agentd.errors import AgentdError
from agentd.findings import Finding
from agentd.managers.hardening.look import Looker
from agentd.managers.hardening.prove import Prover
from agentd.managers.hardening.verify import Proof, Verifier
from agentd.types import Scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 5.0
"""Seconds to wait for the bus."""


@dataclass(slots=True)
class Rig:
    """What a verification needs, connected."""

    control: SystemdControl
    verifier: Verifier
    scope: Scope


@asynccontextmanager
async def connected(scope: Scope) -> AsyncIterator[Rig]:
    """Raises AgentdError("bus-down")."""
    control = SystemdControl(scope)
    try:
        await control.start_up(PATIENCE)
        if not control.connected:
            raise AgentdError("bus-down", f"cannot reach systemd: {control.problem}")
        looker = Looker(control, control, LinuxInspector(), LocalUnitFiles())
        unit_dir = str(paths.unit_dir(system=scope is Scope.SYSTEM))
        yield Rig(control, Verifier(looker, scope, unit_dir=unit_dir), scope)
    finally:
        await control.close()


def findings(settings: Settings, units: Sequence[str], *, prove: bool = False) -> list[Finding]:
    """Of these units; of the host and every configured one when none is named. Raises AgentdError."""
    return asyncio.run(_findings(settings, units, prove=prove))


async def _findings(settings: Settings, units: Sequence[str], *, prove: bool) -> list[Finding]:
    found: list[Finding] = []
    async with connected(Scope(settings.daemon.scope)) as rig:
        host = await rig.verifier.host()
        expected = desired(settings, resources.profile_texts(), host)
        if not units:
            found += host_findings(host, expected)
        for unit in units:
            await rig.verifier.view(unit)  # Named by a user: it has to be there.
        for unit in units or [service.unit for service in settings.services.values() if service.own_unit]:
            proof = await _prove(rig, unit) if prove else None
            found += (await rig.verifier.verify(unit, expected, proof=proof)).findings
            found += [shortfall for shortfall in shortfalls(settings, host) if shortfall.subject == unit]
    return found


async def _prove(rig: Rig, unit: str) -> Proof:
    place = str(paths.runtime_dir(system=rig.scope is Scope.SYSTEM))
    prover = Prover(rig.control, rig.control, JournalctlReader(rig.scope), CanaryReports(place))
    view = await rig.verifier.view(unit)
    return Proof(view.state.invocation_id, await prover.prove(view, await rig.verifier.host()))
