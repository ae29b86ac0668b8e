"""What the handlers of hardening need of the daemon. `reports` and `findings` read the last snapshot; the rest asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentd.findings import Finding
from agentd.types import Change
from agentd.wire import DropinSet, DropinsPlan, DropinsRequest, RollbackRequest, UnitSummary


class HardeningOperations(Protocol):
    def reports(self) -> Sequence[UnitSummary]: ...

    def findings(self) -> Sequence[Finding]: ...

    def texts(self, unit: str) -> Sequence[tuple[str, str]]:
        """(path, text) of the declared drop-ins; of every unit for ""."""
        ...

    async def plan(self, unit: str, *, force: bool) -> DropinsPlan: ...

    async def apply(self, request: DropinsRequest) -> Change:
        """Begun and journaled; does not wait for its end."""
        ...

    async def rollback(self, request: RollbackRequest) -> Change: ...

    async def sets(self) -> Sequence[DropinSet]:
        """Newest first."""
        ...

    async def adopt(self, unit: str) -> Sequence[str]:
        """One sentence per file that was taken over."""
        ...

    async def verify(self, unit: str) -> Sequence[Finding]:
        """Looks anew; "" for every supervised unit and the host."""
        ...

    async def prove(self, unit: str) -> Sequence[Finding]:
        """Runs the canary of one unit; takes some seconds."""
        ...
