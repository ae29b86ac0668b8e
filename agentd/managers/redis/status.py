"""The status of a store, from a look at it or from the reason why there is none."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.redis_verdict import Assessment
from agentd.core.redis_view import StoreView
from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.stores import Durability, StoreRecord, StoreStatus


def seen(
    before: StoreStatus, view: StoreView, verdict: Assessment, record: StoreRecord | None, *, enforcing: str = ""
) -> StoreStatus:
    """`enforcing`: id of the change that runs on it."""
    return replace(
        before,
        durability=verdict.durability,
        summary=verdict.summary,
        problem="",
        at=view.at,
        state=view.state,
        runtime=verdict.runtime,
        file=verdict.file,
        proven=verdict.proven,
        space=view.space,
        findings=verdict.findings,
        enforcing=enforcing,
        record=record,
        backup_bytes=record.backup_bytes if record is not None else 0,
    )


def unseen(before: StoreStatus, error: AgentdError, record: StoreRecord | None, *, enforcing: str = "") -> StoreStatus:
    """What was found in the file stays true; what only the server can say is not known any more."""
    finding = Finding(
        before.name, "server", Verdict.NOT_PROVABLE, Severity.WARNING, cause=error.message, fix=error.hint
    )
    return replace(
        before,
        durability=Durability.UNREACHABLE,
        summary=error.message,
        problem=error.message,
        state=None,
        runtime=None,
        proven=None,
        findings=(finding,),
        enforcing=enforcing,
        record=record,
    )
