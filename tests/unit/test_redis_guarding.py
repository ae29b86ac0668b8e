"""What one look at a store means: the word for it, the findings, a loss, and which repair is due. All pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from agentd.core.aof_manifest import Manifest
from agentd.core.redis_conf import Effective, effective
from agentd.core.redis_layout import Layout, layout
from agentd.core.redis_loss import Loss, back, lost, repair
from agentd.core.redis_policy import NAMES, wanted
from agentd.core.redis_verdict import assess, lacking
from agentd.core.redis_view import StoreView
from agentd.core.schema_redis import RedisPolicy
from agentd.core.schema_types import Seconds
from agentd.findings import Severity, Verdict
from agentd.managers.redis.heal import LONGEST, Attempts
from agentd.managers.redis.schedule import AGAIN, Schedule
from agentd.stores import AofFiles, ConfFile, ConfTree, Durability, Launch, RedisState, Space, StoreRecord

NOW = 1_000_000.0
POLICY = RedisPolicy()
PLACES = {"dir": "/data", "dbfilename": "dump.rdb", "appenddirname": "aof", "appendfilename": "a.aof"}
RUNNING = {**wanted(POLICY), **PLACES}
STATE = RedisState(
    version="7.0.15",
    run_id="one",
    pid=7,
    uptime=100,
    config_file="/etc/redis.conf",
    keys=1000,
    aof_enabled=True,
    aof_rewrites=1,
    aof_base_size=10,
    rdb_last_save=NOW - 10,
    fields={},
)
AOF = AofFiles("manifest", {"a.aof.1.base.rdb": 10, "a.aof.1.incr.aof": 5, "a.aof.manifest": 9}, NOW - 5)
CONF = "appendonly yes\ndir /data\nappenddirname aof\nappendfilename a.aof\n"


def tree(text: str = CONF) -> ConfTree:
    return ConfTree((ConfFile("/etc/redis.conf", text, writable=True),))


def read(text: str = CONF, argv: tuple[str, ...] = ()) -> Effective:
    return effective(tree(text), argv, NAMES)


GOOD = StoreView(
    "redis",
    NOW,
    STATE,
    RUNNING,
    layout=Layout("/data", appenddirname="aof", appendfilename="a.aof"),
    tree=tree(),
    launch=Launch("redis.service", "user", ("redis-server", "/etc/redis.conf"), NOW - 100),
    effective=read(),
    aof=AOF,
    manifest=Manifest("a.aof.1.base.rdb", ("a.aof.1.incr.aof",), ()),
    rdb_mtime=NOW - 10,
    rdb_size=5000,
    space=Space(10**12, 10**12),
    memory_available=10**11,
)


def test_all_is_well() -> None:
    found = assess(GOOD, POLICY, None)
    assert found.durability is Durability.DURABLE
    assert (found.runtime, found.file, found.proven) == (True, True, True)
    assert {f.severity for f in found.findings} == {Severity.OK}


@pytest.mark.parametrize(
    ("change", "word", "aspect", "says"),
    [
        ({"running": {**RUNNING, "appendonly": "no"}}, Durability.AT_RISK, "restart", "a restart now would lose data"),
        ({"running": {**RUNNING, "save": ""}}, Durability.AT_RISK, "save", 'save is ""'),
        ({"running": {**RUNNING, "appendfsync": "no"}}, Durability.AT_RISK, "appendfsync", 'wanted is "everysec"'),
        ({"state": replace(STATE, aof_last_write_ok=False)}, Durability.AT_RISK, "aof", "write"),
        ({"state": replace(STATE, rdb_last_bgsave_ok=False)}, Durability.AT_RISK, "rdb", "the last save"),
        ({"manifest": None, "aof": AofFiles()}, Durability.AT_RISK, "aof", "manifest"),
        (
            {"effective": read("appendonly no\n")},
            Durability.RUNTIME_ONLY,
            "file:appendonly",
            "the next start would have",
        ),
        ({"effective": read(CONF + "appenddirname b\n")}, Durability.RUNTIME_ONLY, "file:appenddirname", "elsewhere"),
        (
            {"effective": read(argv=("redis-server", "/etc/redis.conf", "--appendonly", "no"))},
            Durability.RUNTIME_ONLY,
            "file:appendonly",
            "ExecStart= of redis.service",
        ),
        ({"effective": None}, Durability.RUNTIME_ONLY, "file", "without a configuration file"),
        ({"local": False}, Durability.RUNTIME_ONLY, "file", "another machine"),
        ({"running": None, "running_problem": "no rights"}, Durability.RUNTIME_ONLY, "settings", "no rights"),
    ],
)
def test_what_is_wrong(change: dict[str, object], word: Durability, aspect: str, says: str) -> None:
    found = assess(replace(GOOD, **change), POLICY, None)  # type: ignore[arg-type]
    assert found.durability is word, found
    (finding, *_) = [f for f in found.findings if f.aspect == aspect]
    assert says in finding.cause
    assert finding.severity in (Severity.WARNING, Severity.ERROR)


def test_what_is_only_told() -> None:
    slow = replace(STATE, aof_delayed_fsync=5)
    found = assess(replace(GOOD, state=slow, space=Space(10, 100)), POLICY, None, STATE)
    assert found.durability is Durability.DURABLE
    assert {f.aspect for f in found.findings if f.severity is Severity.WARNING} == {"fsync", "disk"}
    replica = assess(replace(GOOD, state=replace(STATE, role="slave")), POLICY, None)
    assert [f.verdict for f in replica.findings if f.aspect == "role"] == [Verdict.NOT_ENFORCEABLE]
    late = replace(STATE, rdb_changes=5, rdb_last_save=NOW - 7300)
    assert "overdue" in next(
        f.cause for f in assess(replace(GOOD, state=late), POLICY, None).findings if f.aspect == "rdb"
    )


def test_a_rewrite_takes_no_proof_away() -> None:
    rewriting = replace(GOOD, state=replace(STATE, aof_rewrite_in_progress=True))
    assert lacking(rewriting, POLICY, None)
    assert lacking(rewriting, POLICY, StoreRecord("redis", "one", proven=True)) == ()
    assert lacking(rewriting, POLICY, StoreRecord("redis", "another", proven=True))
    first = replace(rewriting, state=replace(rewriting.state, aof_base_size=0))
    assert lacking(first, POLICY, StoreRecord("redis", "one", proven=True)), "switched off and on again"
    assert lacking(rewriting, RedisPolicy(appendonly=False), None) == ()


def test_a_held_store_says_so_whatever_else_is_true() -> None:
    found = assess(GOOD, POLICY, StoreRecord("redis", loss="it came back empty"))
    assert (found.durability, found.summary) == (Durability.DATA_LOSS, "it came back empty")
    loading = assess(replace(GOOD, state=replace(STATE, loading=True, aof_enabled=False)), POLICY, None)
    assert loading.durability is Durability.UNKNOWN
    assert not any(f.severity is Severity.ERROR and f.aspect == "aof" for f in loading.findings)


@pytest.mark.parametrize(
    ("record", "keys", "expected"),
    [
        (StoreRecord("r", "zero", 1000), 1000, None),
        (StoreRecord("r", "zero", 1000), 2000, None),
        (StoreRecord("r", "zero", 1000), 0, Loss.ALL),
        (StoreRecord("r", "zero", 1000), 5, Loss.ALL),
        (StoreRecord("r", "zero", 1000), 500, Loss.SOME),
        (StoreRecord("r", "zero", 1000), 950, None),
        (StoreRecord("r", "zero", 0), 0, None),
        (StoreRecord("r", "zero", 1000, expires=600), 400, None),
        (StoreRecord("r", "zero", 1000, expires=1000), 0, None),
        (StoreRecord("r"), 0, None),
    ],
)
def test_what_counts_as_a_loss(record: StoreRecord, keys: int, expected: Loss | None) -> None:
    view = replace(GOOD, state=replace(STATE, keys=keys), rdb_mtime=NOW - 10)
    assert lost(record, view) is expected


def test_an_rdb_that_was_not_read_shows_a_loss_by_itself() -> None:
    view = replace(GOOD, state=replace(STATE, keys=0), rdb_mtime=NOW - 5000)
    for record in (StoreRecord("r"), StoreRecord("r", "zero", 1000, expires=1000)):
        assert lost(record, view) is Loss.ALL
        assert lost(record, replace(view, rdb_size=89)) is None, "an RDB without a key"
        assert lost(record, replace(view, state=replace(view.state, aof_enabled=False))) is None


def test_the_repair_names_what_to_put_back() -> None:
    record = StoreRecord("redis", "zero", 1000, files={**PLACES, "appenddirname": "before"})
    text = repair(record, GOOD, "/evidence")
    assert 'appenddirname "aof" back to "before"' in text
    assert "/evidence" in text
    assert "set appendonly no in /etc/redis.conf" in repair(replace(record, files=PLACES), GOOD, "")


def test_layout() -> None:
    assert layout({"dir": ""}) is None
    found = layout(PLACES)
    assert found is not None
    assert (found.rdb, found.aof, found.manifest) == ("/data/dump.rdb", "/data/aof", "/data/aof/a.aof.manifest")


def test_a_repair_in_vain_is_tried_ever_more_seldom() -> None:
    attempts, now, tries = Attempts(), 0.0, []
    while now < 40_000:
        if attempts.may(("same",), now):
            attempts.tried(("same",), now)
            tries.append(now)
        now += 30
    gaps = [b - a for a, b in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] <= LONGEST + 30
    assert len(tries) < 20
    assert attempts.may(("other",), now), "something changed"
    attempts.clear()
    assert attempts.may(("same",), now)


def test_appointments() -> None:
    schedule = Schedule(RedisPolicy(backup_every=Seconds(3600.0), drill_every=Seconds(7200.0)))
    assert schedule.due(StoreRecord("r"), NOW) == "backup"
    assert schedule.due(StoreRecord("r"), NOW) == "drill"
    assert schedule.due(StoreRecord("r"), NOW + 1) is None, "both were tried"
    assert schedule.due(StoreRecord("r"), NOW + AGAIN) == "backup", "it failed"
    done = StoreRecord("r", backup_at=NOW, drill_at=NOW)
    assert schedule.due(done, NOW + 3599) is None
    assert schedule.due(done, NOW + 3600) == "backup"
    assert Schedule(RedisPolicy()).due(StoreRecord("r"), NOW) is None


def test_what_counts_as_back() -> None:
    counted = StoreRecord("r", "one", 1000, loss="lost")
    assert back(counted, GOOD)
    assert not back(counted, replace(GOOD, state=replace(STATE, keys=0)))
    never = StoreRecord("r", "one", loss="lost")
    view = replace(GOOD, rdb_mtime=NOW - 5000)
    assert not back(never, view), "the same run cannot have brought it back"
    again = replace(STATE, run_id="two")
    assert not back(never, replace(view, state=replace(again, keys=0)))
    assert not back(never, replace(view, state=again)), "the RDB was not read again"
    assert back(never, replace(view, state=replace(again, aof_current_size=view.rdb_size)))
    assert back(never, replace(view, state=replace(again, aof_enabled=False)))
