"""A store made of plain values, for the API, the command line, the metrics and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.stores import Durability, RedisState, Space, StoreRecord, StoreStatus
from agentd.types import Change, Outcome
from agentd.wire import BackupRequest, EnforcePlan, StoreRequest

AT = 1_800_000_000.0
RAW = "raw-info-text-of-the-server"
STATE = RedisState(
    version="7.0.15",
    run_id="f00dcafe",
    pid=987654,
    uptime=7200,
    config_file="/etc/redis/redis.conf",
    keys=1000,
    expires=12,
    used_memory=177 << 20,
    aof_enabled=True,
    aof_rewrites=3,
    aof_last_rewrite_seconds=2,
    aof_current_size=36 << 20,
    aof_base_size=35 << 20,
    aof_delayed_fsync=4,
    rdb_last_save=AT - 200,
    rdb_changes=7,
    rdb_saves=5,
    rdb_last_bgsave_seconds=1,
    rdb_last_cow_size=4096,
    fields={"secret_field": RAW},
)
GOOD = Finding("redis", "settings", Verdict.EFFECTIVE, Severity.OK)
VOID = Finding(
    "redis",
    "file:appendonly",
    Verdict.OVERRIDDEN,
    Severity.ERROR,
    "yes",
    "no",
    "",
    "the next start would have appendonly no, by /etc/redis/late.conf:1",
    "agentctl redis persist /etc/redis/redis.conf --apply",
    "/etc/redis/late.conf:1",
)
DURABLE = StoreStatus(
    "redis",
    "redis.service",
    "redis://127.0.0.1:6379",
    Durability.DURABLE,
    "persistence is as wanted, now and after a restart",
    at=AT,
    state=STATE,
    runtime=True,
    file=True,
    proven=True,
    space=Space(12 << 30, 40 << 30),
    findings=(GOOD,),
    record=StoreRecord(
        "redis", "f00dcafe", 1000, AT, proven=True, backup_at=AT - 7200, drill_at=AT - 90, drill_ok=True
    ),
    backup_bytes=36 << 20,
)
RUNTIME_ONLY = replace(
    DURABLE, durability=Durability.RUNTIME_ONLY, summary=VOID.cause, file=False, findings=(GOOD, VOID)
)
AWAY = replace(
    DURABLE,
    durability=Durability.UNREACHABLE,
    summary="it cannot be asked",
    problem="cannot ask redis://127.0.0.1:6379: connection refused",
    runtime=None,
    file=None,
    proven=None,
)


class FakeRedis:
    def __init__(self) -> None:
        self.list: list[StoreStatus] = [DURABLE]
        self.asked: list[object] = []
        self.refusals: tuple[str, ...] = ()
        self.steps: tuple[str, ...] = ("save the RDB", "CONFIG SET appendonly yes", "wait for the proof")
        self.fail: AgentdError | None = None
        self.running: Change | None = None
        """What is answered instead of a finished change."""
        self.end: tuple[Outcome, int, str, str] = (Outcome.DONE, 0, "redis is durable", "")

    def stores(self) -> Sequence[StoreStatus]:
        return self.list

    async def verify(self, store: str) -> Sequence[StoreStatus]:
        return self._of(store)

    async def plan(self, store: str) -> Sequence[EnforcePlan]:
        found = self._of(store)
        return [EnforcePlan(s.name, self.steps, self.refusals, ("the file is a symbolic link",)) for s in found]

    async def enforce(self, request: StoreRequest) -> Change:
        return self._begin("redis-enforce", request, request.store)

    async def drill(self, request: StoreRequest) -> Change:
        return self._begin("redis-drill", request, request.store)

    async def backup(self, request: BackupRequest) -> Change:
        return self._begin("redis-backup", request, request.store)

    def _of(self, store: str) -> list[StoreStatus]:
        found = [s for s in self.list if store in ("", s.name)]
        if store and not found:
            raise AgentdError("store-not-found", f'no store "{store}"', hint='did you mean "redis"?')
        self.asked.append(store)
        return found

    def _begin(self, kind: str, request: object, store: str) -> Change:
        if self.fail is not None:
            raise self.fail
        self._of(store)
        self.asked.append(request)
        if self.running is not None:
            return self.running
        outcome, code, message, cause = self.end
        return Change(
            "r1", kind, "", store or None, None, AT, "done", AT + 2.5, outcome, code, message=message, cause=cause
        )
