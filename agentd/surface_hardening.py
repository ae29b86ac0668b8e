"""What the API sees of hardening: names become units, records become what goes over the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from agentd.core.names import configured_unit, unit_of
from agentd.core.schema import Settings
from agentd.findings import Finding
from agentd.managers.hardening.actions import HardeningActions
from agentd.managers.hardening.manager import HardeningManager
from agentd.managers.hardening.verify import UnitReport
from agentd.types import Change
from agentd.wire import DropinSet, DropinsPlan, DropinsRequest, PlannedFile, RollbackRequest, UnitSummary


class HardeningSurface:
    """Implements api.operations_hardening.HardeningOperations."""

    def __init__(
        self,
        manager: HardeningManager,
        actions: HardeningActions,
        settings: Callable[[], Settings],
        reload: Callable[[], Awaitable[object]],
        unit_dir: str,
    ) -> None:
        self._manager = manager
        self._actions = actions
        self._settings = settings
        self._reload = reload
        self._unit_dir = unit_dir.rstrip("/")

    def reports(self) -> Sequence[UnitSummary]:
        return [_summary(report) for report in self._manager.reports()]

    def findings(self) -> Sequence[Finding]:
        return self._manager.findings()

    def texts(self, unit: str) -> Sequence[tuple[str, str]]:
        units = self._units(unit)
        return [
            (f"{self._unit_dir}/{dropin.path}", dropin.text)
            for dropin in self._manager.desired
            if not units or dropin.unit in units
        ]

    async def plan(self, unit: str, *, force: bool) -> DropinsPlan:
        plan = await self._actions.plan(self._units(unit), force=force)
        files = tuple(PlannedFile(f.unit, f.path, f.action.value, f.diff, f.note) for f in plan.files)
        unloaded = tuple(f"{path} is not loaded yet: a daemon-reload is missing" for path in plan.unloaded)
        return DropinsPlan(files, (*map(str, plan.rivals), *unloaded))

    async def apply(self, request: DropinsRequest) -> Change:
        return await self._actions.apply(self._units(request.unit), restart=request.restart, force=request.force)

    async def rollback(self, request: RollbackRequest) -> Change:
        return await self._actions.rollback(request.set, restart=request.restart)

    async def sets(self) -> Sequence[DropinSet]:
        return await self._actions.sets()

    async def adopt(self, unit: str) -> Sequence[str]:
        done = await self._actions.adopt(configured_unit(self._settings(), unit))
        if done:
            await self._reload()
        return done

    async def verify(self, unit: str) -> Sequence[Finding]:
        units = [unit_of(self._settings(), unit)] if unit else []
        reports = await self._manager.verify_now(units)
        host = () if units else self._manager.host_findings()
        return [*host, *self._manager.of_units(reports)]

    async def prove(self, unit: str) -> Sequence[Finding]:
        return await self._actions.prove(unit_of(self._settings(), unit))

    def _units(self, name: str) -> list[str]:
        return [configured_unit(self._settings(), name)] if name else []


def _summary(report: UnitReport) -> UnitSummary:
    verdicts: dict[str, int] = {}
    for finding in report.findings:
        verdicts[finding.verdict.value] = verdicts.get(finding.verdict.value, 0) + 1
    return UnitSummary(
        report.unit, report.running, report.proven, report.at, report.cpu_seconds, report.score, verdicts
    )
