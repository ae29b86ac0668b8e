"""Families about stores: what INFO said at the last look, and what agentd makes of it. No scrape asks Redis.

While a store cannot be asked its own figures are absent: old ones would look like new ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import Metric

from agentd.findings import Severity
from agentd.metrics.families import counter, gauge, one_hot
from agentd.metrics.view import MetricsView
from agentd.stores import Durability, RedisState, StoreRecord, StoreStatus

STATES = tuple(word.value for word in Durability)
SEVERITIES = (Severity.INFO, Severity.WARNING, Severity.ERROR)
ASPECTS = ("runtime", "file", "proven")

Row = tuple[str, str, Callable[[RedisState], float | None]]
"""Name below agentd_redis_, help, value; None: not known, so absent."""


def _seconds(value: float) -> float | None:
    """-1 stands for "never yet"."""
    return value if value >= 0 else None


GAUGES: tuple[Row, ...] = (
    ("keys", "Keys in all databases.", lambda s: s.keys),
    ("keys_expiring", "Keys with a time to live.", lambda s: s.expires),
    ("loading", "1 while it reads its data set.", lambda s: s.loading),
    ("master", "1 when it is no replica.", lambda s: s.role == "master"),
    ("uptime_seconds", "Since its start.", lambda s: s.uptime),
    ("memory_used_bytes", "Memory of the data set and what it needs besides.", lambda s: s.used_memory),
    ("memory_max_bytes", "maxmemory; 0 for no limit.", lambda s: s.maxmemory),
    ("aof_enabled", "1 while the append-only file is switched on.", lambda s: s.aof_enabled),
    ("aof_rewrite_in_progress", "1 while it is rewritten.", lambda s: s.aof_rewrite_in_progress),
    ("aof_rewrite_scheduled", "1 while a rewrite waits for a save.", lambda s: s.aof_rewrite_scheduled),
    ("aof_last_rewrite_ok", "0 after a rewrite that failed.", lambda s: s.aof_last_bgrewrite_ok),
    ("aof_last_write_ok", "0 while the file cannot be written.", lambda s: s.aof_last_write_ok),
    ("aof_rewrite_consecutive_failures", "Rewrites that failed in a row.", lambda s: s.aof_rewrite_failures),
    (
        "aof_last_rewrite_duration_seconds",
        "How long the last rewrite took.",
        lambda s: _seconds(s.aof_last_rewrite_seconds),
    ),
    ("aof_current_size_bytes", "Size of the append-only file.", lambda s: s.aof_current_size),
    ("aof_base_size_bytes", "Its size after the last rewrite.", lambda s: s.aof_base_size),
    ("aof_pending_fsync", "Syncs that wait in the background.", lambda s: s.aof_pending_fsync),
    ("aof_last_cow_bytes", "Memory copied on write by the last rewrite.", lambda s: s.aof_last_cow_size),
    ("rdb_save_in_progress", "1 while a snapshot is saved.", lambda s: s.rdb_bgsave_in_progress),
    ("rdb_last_save_ok", "0 after a save that failed.", lambda s: s.rdb_last_bgsave_ok),
    ("rdb_last_save_timestamp_seconds", "When it last saved; its start if never.", lambda s: s.rdb_last_save or None),
    ("rdb_last_save_duration_seconds", "How long that took.", lambda s: _seconds(s.rdb_last_bgsave_seconds)),
    ("rdb_changes_since_last_save", "Writes that the snapshot lacks.", lambda s: s.rdb_changes),
    ("rdb_last_cow_bytes", "Memory copied on write by the last save.", lambda s: s.rdb_last_cow_size),
)
COUNTERS: tuple[Row, ...] = (
    ("aof_rewrites", "Rewrites begun since its start, failed ones too.", lambda s: s.aof_rewrites),
    (
        "aof_delayed_fsync",
        "Writes that waited for a sync; grows while the disk is too slow.",
        lambda s: s.aof_delayed_fsync,
    ),
    ("rdb_saves", "Snapshots saved since its start.", lambda s: s.rdb_saves),
)


def redis(view: MetricsView) -> Iterable[Metric]:
    stores = view.stores
    known = [((s.name,), float(not s.problem)) for s in stores if s.problem or s.state is not None]
    yield gauge("agentd_redis_up", "1 when the store answered at the last look.", ("store",), known)
    yield from _server(stores)
    yield from _judged(stores)
    yield from _disk(stores)
    yield from _remembered(stores)
    ages = [((s.name,), max(0.0, view.now - s.at)) for s in stores if s.at and view.now]
    yield gauge("agentd_redis_snapshot_age_seconds", "Seconds since the store last answered.", ("store",), ages)


def _server(stores: Iterable[StoreStatus]) -> Iterable[Metric]:
    states = [(s.name, s.state) for s in stores if s.state is not None and not s.problem]
    for make, rows in ((gauge, GAUGES), (counter, COUNTERS)):
        for name, text, read in rows:
            values = [((store,), read(state)) for store, state in states]
            yield make(
                f"agentd_redis_{name}", text, ("store",), [(key, float(v)) for key, v in values if v is not None]
            )
    info = [((store, state.product, state.version), 1.0) for store, state in states]
    yield gauge("agentd_redis_info", "What kind of server it is.", ("store", "product", "version"), info)


def _judged(stores: Iterable[StoreStatus]) -> Iterable[Metric]:
    words = [sample for s in stores for sample in one_hot((s.name,), STATES, s.durability.value)]
    text = "The one word for a store; 1 for the current one."
    yield gauge("agentd_redis_durability", text, ("store", "state"), words)
    aspects = [((s.name, aspect), getattr(s, aspect)) for s in stores for aspect in ASPECTS]
    yield gauge(
        "agentd_redis_compliant",
        "1 where it is as the policy wants: run time, configuration file, append-only file proven; absent if unknown.",
        ("store", "aspect"),
        [(key, float(value)) for key, value in aspects if value is not None],
    )
    counted = {s.name: Counter(f.severity for f in s.findings) for s in stores}
    findings = [
        ((store, severity.value), float(found[severity])) for store, found in counted.items() for severity in SEVERITIES
    ]
    yield gauge("agentd_redis_findings", "Findings about a store by severity.", ("store", "severity"), findings)
    busy = [((s.name,), float(bool(s.enforcing))) for s in stores]
    yield gauge("agentd_redis_change_in_progress", "1 while agentd acts on the store.", ("store",), busy)


def _disk(stores: Iterable[StoreStatus]) -> Iterable[Metric]:
    spaces = [((s.name,), s.space) for s in stores if s.space is not None]
    for name, text in (("free", "Free"), ("total", "All")):
        values = [(key, float(getattr(space, name))) for key, space in spaces]
        yield gauge(f"agentd_redis_disk_{name}_bytes", f"{text} space below the data directory.", ("store",), values)


def _remembered(stores: Iterable[StoreStatus]) -> Iterable[Metric]:
    records: list[tuple[StoreStatus, StoreRecord]] = [(s, s.record) for s in stores if s.record is not None]
    backups = [((s.name,), record.backup_at) for s, record in records if record.backup_at]
    text = "When it was last backed up."
    yield gauge("agentd_redis_last_backup_timestamp_seconds", text, ("store",), backups)
    sizes = [((s.name,), float(s.backup_bytes)) for s, record in records if record.backup_at]
    yield gauge("agentd_redis_last_backup_size_bytes", "Size of that backup.", ("store",), sizes)
    drills = [((s.name,), record.drill_at) for s, record in records if record.drill_at]
    text = "When the next start was last tried on a copy."
    yield gauge("agentd_redis_last_drill_timestamp_seconds", text, ("store",), drills)
    results = [((s.name,), float(r.drill_ok)) for s, r in records if r.drill_ok is not None]
    yield gauge("agentd_redis_last_drill_success", "1 when that trial brought the data back.", ("store",), results)
