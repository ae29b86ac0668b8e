"""What is true of a store: findings, and the one word, from one look at it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agentd.core.redis_file_findings import file_findings
from agentd.core.redis_policy import drift, overdue, proof
from agentd.core.redis_view import StoreView
from agentd.core.schema_redis import RedisPolicy
from agentd.findings import Finding, Severity, Verdict
from agentd.stores import Durability, RedisState, StoreRecord

VITAL = ("appendonly", "save")
"""Settings without which data is lost; the others make it slower, bigger or more fragile."""
BAD = (Severity.WARNING, Severity.ERROR)


@dataclass(frozen=True, slots=True)
class Assessment:
    durability: Durability
    summary: str
    findings: tuple[Finding, ...]
    runtime: bool | None
    file: bool | None
    proven: bool


def assess(
    view: StoreView, policy: RedisPolicy, record: StoreRecord | None, previous: RedisState | None = None
) -> Assessment:
    """`previous`: the look before, for what only shows by growing."""
    unproven = lacking(view, policy, record)
    runtime = None if view.running is None else not drift(policy, view.running)
    file, file_found = file_findings(view, policy)
    findings = (
        *_loss(view, record),
        *_running(view, policy),
        *_aof(view, unproven),
        *_rdb(view, policy),
        *_server(view, policy, previous),
        *file_found,
    )
    proven = not unproven and view.state.rdb_last_bgsave_ok
    word, summary = _word(view, record, findings, runtime=runtime, file=file, proven=proven)
    return Assessment(word, summary, findings, runtime, file, proven)


def lacking(view: StoreView, policy: RedisPolicy, record: StoreRecord | None) -> tuple[str, ...]:
    """What is not proven of the append-only file; () where the policy wants none.

    A rewrite that runs takes nothing away from a file that was proven in this run: the old one serves until it ends.
    """
    if not policy.appendonly:
        return ()
    state = view.state
    # Right after it was switched on its base is empty: then nothing serves yet.
    if record is not None and record.proven and record.run_id == state.run_id and state.aof_base_size > 0:
        state = replace(state, aof_rewrite_in_progress=False, aof_rewrite_scheduled=False)
    return proof(state, rewrites_before=None, aof=view.aof, manifest=view.manifest)


def _word(
    view: StoreView,
    record: StoreRecord | None,
    findings: Sequence[Finding],
    *,
    runtime: bool | None,
    file: bool | None,
    proven: bool,
) -> tuple[Durability, str]:
    if record is not None and record.loss:
        return Durability.DATA_LOSS, record.loss
    if view.state.loading:
        return Durability.UNKNOWN, "it is loading its data"
    wrong = next((f.cause for f in findings if f.severity is Severity.ERROR and not f.aspect.startswith("file:")), "")
    if not proven or runtime is False:
        return Durability.AT_RISK, wrong or next((f.cause for f in findings if f.severity in BAD), "")
    ahead = next((f.cause for f in findings if f.severity is Severity.ERROR), "")
    if ahead:
        return (Durability.RUNTIME_ONLY if not wrong else Durability.AT_RISK), ahead
    if file and runtime:
        return Durability.DURABLE, "persistence is as wanted, now and after a restart"
    if runtime is None:
        return Durability.RUNTIME_ONLY, f"it works, but its settings cannot be read: {view.running_problem}"
    return Durability.RUNTIME_ONLY, "it works now; whether the next start keeps it cannot be verified"


def _loss(view: StoreView, record: StoreRecord | None) -> Iterator[Finding]:
    if record is None or not record.loss:
        return
    yield Finding(
        view.name,
        "data",
        Verdict.NOT_EFFECTIVE,
        Severity.ERROR,
        declared=f"{record.keys} keys",
        effective=f"{view.state.keys} keys",
        cause=record.loss,
        fix=f"see: agentctl redis status {view.name}",
    )


def _running(view: StoreView, policy: RedisPolicy) -> Iterator[Finding]:
    if view.running is None:
        if not view.state.loading:
            yield Finding(
                view.name,
                "settings",
                Verdict.NOT_PROVABLE,
                Severity.WARNING,
                cause=f"the settings cannot be read: {view.running_problem}",
                fix=_settings_fix(view.running_problem),
            )
        return
    wrong = {item.name: item for item in drift(policy, view.running)}
    for item in wrong.values():
        yield Finding(
            view.name,
            item.name,
            Verdict.NOT_EFFECTIVE,
            Severity.ERROR if item.name in VITAL else Severity.WARNING,
            declared=item.wanted,
            effective=item.found,
            cause=f'{item.name} is "{item.found}" in the running server, wanted is "{item.wanted}"',
            fix=f"agentctl redis enforce {view.name}",
        )
    if not wrong:
        yield Finding(view.name, "settings", Verdict.EFFECTIVE, Severity.OK)


def _settings_fix(problem: str) -> str:
    if "renamed or switched off" in problem:
        return "take rename-command CONFIG out of the server's configuration file, and restart it when it is safe"
    return "give agentd's ACL user +config|get +config|set +config|rewrite +bgsave +bgrewriteaof +info"


def _aof(view: StoreView, unproven: Sequence[str]) -> Iterator[Finding]:
    if view.state.loading:
        return
    if not unproven:
        if view.state.aof_enabled:
            yield Finding(
                view.name, "aof", Verdict.EFFECTIVE, Severity.OK, effective=f"{view.state.aof_current_size} bytes"
            )
        return
    # While the first rewrite runs nothing is wrong yet, but nothing is proven either.
    severity = Severity.WARNING if view.state.aof_enabled and view.state.saving else Severity.ERROR
    for cause in unproven:
        fix = f"agentctl redis enforce {view.name}"
        yield Finding(view.name, "aof", Verdict.NOT_EFFECTIVE, severity, cause=cause, fix=fix)


def _rdb(view: StoreView, policy: RedisPolicy) -> Iterator[Finding]:
    state = view.state
    if state.loading:
        return
    late = overdue(state, policy, view.at)
    if not state.rdb_last_bgsave_ok:
        yield Finding(
            view.name,
            "rdb",
            Verdict.NOT_EFFECTIVE,
            Severity.ERROR,
            cause="the last save of the RDB failed; with stop-writes-on-bgsave-error Redis refuses writes",
            fix="make room on the disk, or let Redis write to its directory; then agentd saves again by itself",
        )
    elif late > 0:
        cause = f"{state.rdb_changes} changes wait for a save that is {late:.0f} s overdue by the save points"
        yield Finding(view.name, "rdb", Verdict.NOT_EFFECTIVE, Severity.WARNING, cause=cause, fix="redis-cli BGSAVE")
    elif policy.save:
        yield Finding(view.name, "rdb", Verdict.EFFECTIVE, Severity.OK)


def _server(view: StoreView, policy: RedisPolicy, previous: RedisState | None) -> Iterator[Finding]:
    state = view.state
    if state.role != "master":
        cause = "it is a replica: its data is its master's, so agentd changes nothing here"
        yield Finding(view.name, "role", Verdict.NOT_ENFORCEABLE, Severity.INFO, cause=cause)
    delayed = (
        state.aof_delayed_fsync - previous.aof_delayed_fsync if previous and previous.run_id == state.run_id else 0
    )
    if delayed > 0:
        cause = f"the disk is too slow: {delayed} writes of the append-only file had to wait since the last look"
        fix = "look for what else writes to that disk; a power loss now costs more than two seconds"
        yield Finding(view.name, "fsync", Verdict.NOT_EFFECTIVE, Severity.WARNING, cause=cause, fix=fix)
    need = 2 * state.used_memory + policy.disk_margin
    if view.space is not None and view.space.free < need:
        cause = f"{view.space.free} bytes are free below {view.layout.directory if view.layout else ''}, a save and a"
        cause += f" rewrite together may need {need}"
        yield Finding(
            view.name, "disk", Verdict.NOT_EFFECTIVE, Severity.WARNING, cause=cause, fix="make room on the disk"
        )
