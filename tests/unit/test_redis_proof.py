"""When a change of a store may begin, when its append-only file counts as proven, and when a snapshot is late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentd.core.aof_manifest import Manifest
from agentd.core.redis_info import parse_info
from agentd.core.redis_policy import overdue, proof, refusals, wanted
from agentd.core.schema_redis import RedisPolicy
from agentd.core.schema_types import Bytes
from agentd.stores import AofFiles, RedisState, Space

DATA = Path(__file__).parent / "data/redis_info"
POLICY = RedisPolicy()
RUNNING = wanted(POLICY)
MIB, GIB = 1 << 20, 1 << 30

ON = RedisState(version="7.0.15", aof_enabled=True, aof_rewrites=1, used_memory=GIB, rdb_last_save=1000.0)
BASE, INCREMENT = "appendonly.aof.1.base.rdb", "appendonly.aof.1.incr.aof"
MANIFEST = Manifest(BASE, (INCREMENT,), ())
FILES = AofFiles("text", {BASE: 89, INCREMENT: 0, "appendonly.aof.manifest": 88}, 1000.0)
ROOM = Space(100 * GIB, 200 * GIB)


def captured(name: str) -> RedisState:
    return parse_info((DATA / f"{name}.txt").read_text())


def policy(**values: Any) -> RedisPolicy:
    return msgspec.structs.replace(POLICY, **values)


def test_proven() -> None:
    assert proof(ON, rewrites_before=0, aof=FILES, manifest=MANIFEST) == ()
    assert proof(ON, rewrites_before=None, aof=None, manifest=None) == ()
    assert proof(captured("redis7-on"), rewrites_before=0, aof=FILES, manifest=MANIFEST) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loading": True}, "the server still loads its data set"),
        ({"aof_enabled": False}, "the append-only file is off"),
        ({"aof_rewrite_in_progress": True}, "a rewrite of the append-only file runs"),
        ({"aof_rewrite_scheduled": True}, "a rewrite of the append-only file waits for its turn"),
        ({"aof_last_bgrewrite_ok": False}, "the last rewrite of the append-only file failed"),
        ({"aof_rewrite_failures": 2}, "rewrites of the append-only file that failed in a row: 2"),
        ({"aof_last_write_ok": False}, "the last write to the append-only file failed"),
        ({"aof_rewrites": 0}, "no rewrite has begun since it was switched on (aof_rewrites is still 0)"),
    ],
)
def test_each_condition_of_the_state_counts(changes: dict[str, Any], sentence: str) -> None:
    assert proof(replace(ON, **changes), rewrites_before=0, aof=FILES, manifest=MANIFEST) == (sentence,)


@pytest.mark.parametrize(
    ("name", "count"), [("redis7-off", 2), ("redis7-rewriting", 1), ("redis7-scheduled", 2), ("redis7-failed", 3)]
)
def test_real_servers_on_their_way(name: str, count: int) -> None:
    """Of the failed one: the status, the count of failures, and the next try that waits."""
    found = proof(captured(name), rewrites_before=0, aof=None, manifest=None)
    assert len(found) == count, found


@pytest.mark.parametrize(
    ("files", "manifest", "sentence"),
    [
        (AofFiles(), None, "the append-only directory has no manifest"),
        (AofFiles("junk"), None, "the append-only directory has no readable manifest"),
        (FILES, Manifest("", (INCREMENT,), ()), "the manifest names no base file"),
        (FILES, Manifest(BASE, (), ()), "the manifest names no file of increments"),
        (
            AofFiles("text", {INCREMENT: 0}),
            MANIFEST,
            f"the manifest names {BASE}, and it is not there",
        ),
        (
            AofFiles("text", {BASE: 89}),
            MANIFEST,
            f"the manifest names {INCREMENT}, and it is not there",
        ),
        (AofFiles("text", {BASE: 0, INCREMENT: 0}), MANIFEST, f"the base file {BASE} is empty"),
    ],
)
def test_each_condition_of_the_files_counts(files: AofFiles, manifest: Manifest | None, sentence: str) -> None:
    assert proof(ON, rewrites_before=None, aof=files, manifest=manifest) == (sentence,)


def test_more_increments_and_history_are_fine() -> None:
    later = Manifest(BASE, (INCREMENT, "appendonly.aof.2.incr.aof"), ("appendonly.aof.0.incr.aof",))
    files = AofFiles("text", {**FILES.sizes, "appendonly.aof.2.incr.aof": 0})
    assert proof(ON, rewrites_before=None, aof=files, manifest=later) == ()


def test_an_empty_base_in_the_old_form_is_fine() -> None:
    """Without the RDB preamble the base of an empty data set has no bytes."""
    name = "appendonly.aof.1.base.aof"
    files = AofFiles("text", {name: 0, INCREMENT: 0})
    assert proof(ON, rewrites_before=None, aof=files, manifest=Manifest(name, (INCREMENT,), ())) == ()


def test_files_that_cannot_be_read_are_not_judged() -> None:
    assert proof(ON, rewrites_before=0, aof=AofFiles(problem="permission denied"), manifest=None) == ()


def test_all_is_well() -> None:
    assert refusals(ON, RUNNING, ROOM, POLICY, 8 * GIB) == ()
    assert refusals(ON, RUNNING, None, POLICY, None) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loading": True}, "the server still loads its data set: wait until it has"),
        ({"role": "slave"}, "the server is a replica (its role is slave): set the policy on its master"),
        (
            {"aof_last_write_ok": False},
            "the last write to the append-only file failed: free space where it lies, and see the server's log",
        ),
        ({"version": "6.2.14"}, "Redis 6.2.14 is older than 7.0: upgrade it"),
        ({"version": ""}, "Redis of an unknown version is older than 7.0: upgrade it"),
    ],
)
def test_each_state_that_forbids_it(changes: dict[str, Any], sentence: str) -> None:
    assert refusals(replace(ON, **changes), RUNNING, ROOM, POLICY, 8 * GIB) == (sentence,)


@pytest.mark.parametrize("version", ["7.0.0", "8.0.2", "10.1.0", "255.255.255"])
def test_versions_that_will_do(version: str) -> None:
    assert refusals(replace(ON, version=version), RUNNING, ROOM, POLICY, None) == ()


def test_every_valkey_will_do() -> None:
    assert refusals(replace(ON, product="valkey", version=""), RUNNING, ROOM, POLICY, None) == ()


def test_hidden_settings() -> None:
    assert refusals(ON, {"save": ""}, ROOM, POLICY, None) == (
        "CONFIG GET does not show appendonly: it may be hidden from the ACL user that agentd comes as",
    )


def test_the_disk_has_to_hold_the_data_set_twice() -> None:
    need = 2 * GIB + 64 * MIB
    assert refusals(ON, RUNNING, Space(need, need), POLICY, None) == ()
    assert refusals(ON, RUNNING, Space(need - 1, need), policy(disk_margin=Bytes(64 * MIB - 1)), None) == ()
    assert refusals(ON, RUNNING, Space(GIB // 2, need), POLICY, None) == (
        "512.0 MiB are free where it keeps its files, and 2.1 GiB are needed (twice its data set of 1.0 GiB, and "
        "redis.disk_margin): free space there",
    )


def test_the_memory_has_to_hold_what_is_copied() -> None:
    need = GIB // 10 + 64 * MIB + 1
    assert refusals(ON, RUNNING, ROOM, POLICY, need) == ()
    assert refusals(ON, RUNNING, ROOM, POLICY, need - 1) == (
        "166.4 MiB of memory are available, and a child that saves may need 166.4 MiB (a tenth of its data set of "
        "1.0 GiB, and 64 MiB): free memory",
    )


def test_all_reasons_at_once() -> None:
    worst = replace(ON, loading=True, role="slave", aof_last_write_ok=False, version="5.0.7")
    assert len(refusals(worst, {}, Space(0, 1), POLICY, 0)) == 7


@pytest.mark.parametrize(
    ("name", "count"),
    [("redis7-off", 0), ("redis8-on", 0), ("valkey80-on", 0), ("redis6-on", 1), ("redis7-replica", 1)],
)
def test_real_servers(name: str, count: int) -> None:
    assert len(refusals(captured(name), RUNNING, ROOM, POLICY, GIB)) == count


@pytest.mark.parametrize(
    ("changes", "age", "late"),
    [
        (0, 1e6, 0.0),
        (1, 3600.0, 0.0),
        (1, 3610.0, 10.0),
        (20000, 3599.0, 0.0),
        (20000, 4000.0, 400.0),
        (1, -50.0, 0.0),
    ],
)
def test_overdue(changes: int, age: float, late: float) -> None:
    assert overdue(replace(ON, rdb_changes=changes), POLICY, 1000.0 + age) == late


def test_points_whose_changes_are_not_reached_do_not_count() -> None:
    rare = policy(save="3600 100 60 10")
    assert overdue(replace(ON, rdb_changes=5), rare, 1e6) == 0.0
    assert overdue(replace(ON, rdb_changes=50), rare, 1000.0 + 61) == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"rdb_bgsave_in_progress": True},
        {"aof_rewrite_in_progress": True},
        {"loading": True},
        {"rdb_last_save": 0.0},
    ],
)
def test_not_overdue_while_it_is_made_or_unknown(changes: dict[str, Any]) -> None:
    assert overdue(replace(ON, rdb_changes=1, **changes), POLICY, 1e9) == 0.0


def test_without_save_points_nothing_is_overdue() -> None:
    assert overdue(replace(ON, rdb_changes=1), policy(save=""), 1e9) == 0.0
