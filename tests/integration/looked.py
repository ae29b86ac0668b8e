"""Units that are looked at: what the tests of evidence share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentd.adapters.inspector import LinuxInspector
from agentd.adapters.systemd import SystemdControl
from agentd.adapters.unit_files import LocalUnitFiles
from agentd.evidence import UnitEvidence, UnitView
from agentd.managers.hardening.look import Looker
from agentd.types import JobResult, Scope

SLEEP = "ExecStart=/bin/sleep 1000"


@asynccontextmanager
async def control(library: str = "auto") -> AsyncIterator[SystemdControl]:
    made = SystemdControl(library=library)
    await made.start_up()
    assert made.connected, made.problem
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def looking() -> AsyncIterator[tuple[SystemdControl, Looker]]:
    async with control() as systemd:
        yield systemd, Looker(systemd, systemd, LinuxInspector(), LocalUnitFiles())


async def started(systemd: SystemdControl, unit: str) -> None:
    await systemd.reload()
    assert await (await systemd.start(unit)).wait(10) is JobResult.DONE


async def seen(looker: Looker, unit: str, *paths: str) -> tuple[UnitView, UnitEvidence | None]:
    host = await looker.host(Scope.USER)
    view = await looker.view(unit, host)
    return view, await looker.evidence(view, paths)
