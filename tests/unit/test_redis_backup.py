"""The record of a backup, which ones go, what a drill expects, and under which names a restore puts its parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core import redis_backup as backup
from agentd.core.aof_manifest import parse_manifest, render_manifest
from agentd.core.redis_backup import BackupInfo, from_json, missing_keys, surplus, to_json, wrong_files
from agentd.core.redis_drill import Range, expected_of_aof, expected_of_rdb, memory_wanted, shortfall
from agentd.core.redis_placement import part_names
from agentd.errors import AgentdError
from agentd.stores import FileDigest, RedisState

NAMES = {"dbfilename": "dump.rdb", "appenddirname": "appendonlydir", "appendfilename": "appendonly.aof"}
RDB = FileDigest("dump.rdb", 90, "a" * 64)
BASE = FileDigest("appendonlydir/appendonly.aof.1.base.rdb", 89, "b" * 64)
INFO = BackupInfo(
    "redis", "redis", "7.0.15", 1_800_000_000.25, {0: 100, 3: 5}, {0: 10, 3: 0}, (BASE, RDB), NAMES, True, 1_000_000
)
WHERE = "/b/backup.json"

counts = st.dictionaries(st.integers(0, 15), st.integers(0, 10**12), max_size=4)


@given(counts, counts, st.booleans(), st.text(min_size=1), st.floats(0, 4e9))
def test_the_record_comes_back(
    keys: dict[int, int], expires: dict[int, int], loaded: bool, store: str, time: float
) -> None:
    info = replace(INFO, keys=keys, expires=expires, loaded=loaded, store=store, time=time)
    assert from_json(to_json(info), WHERE) == info
    assert info.rdb == RDB
    assert info.total == sum(keys.values())


def change(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body.update(values)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda body: body.pop(name)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change(format=2), "its format is 2; this agentd knows 1"),
        (change(format="1"), "its format is 1; this agentd knows 1"),
        (without("format"), "its format is none"),
        (without("keys"), "missing required field `keys`"),
        (change(keys={"0": -1}), ">= 0"),
        (change(keys={"zero": 1}), "expected `int`"),
        (change(time="now"), "expected `float`"),
        (change(time=1e300), "<= 253402300799"),
        (change(loaded=1), "expected `bool`"),
        (change(more=1), "unknown field `more`"),
        (change(files=[{"path": "dump.rdb", "size": 1, "sha256": "x"}]), "matching regex"),
        (change(files=[]), "names no RDB (dump.rdb)"),
        (change(names={**NAMES, "dbfilename": "../dump.rdb"}), 'its name for dbfilename is "../dump.rdb"'),
        (change(names={**NAMES, "appenddirname": ".."}), 'its name for appenddirname is ".."'),
        (change(names={"dbfilename": "dump.rdb"}), 'its name for appenddirname is ""'),
        (change(files=[{"path": "../x", "size": 1, "sha256": "a" * 64}]), '"../x" is no path inside of it'),
        (change(files=[{"path": "/x", "size": 1, "sha256": "a" * 64}]), '"/x" is no path inside of it'),
        (change(files=[{"path": "dump.rdb", "size": 1, "sha256": "a" * 64}] * 2), "names a file twice"),
    ],
)
def test_a_wrong_record_says_what_is_wrong(edit: Callable[[dict[str, Any]], object], said: str) -> None:
    body = json.loads(to_json(INFO))
    edit(body)
    body["checksum"] = backup._checksum({key: value for key, value in body.items() if key != "checksum"})
    with pytest.raises(AgentdError) as caught:
        from_json(json.dumps(body), WHERE)
    assert caught.value.kind == "backup-damaged"
    assert caught.value.message.startswith(f"cannot use {WHERE}: ")
    assert said in caught.value.message
    assert "`$" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(AgentdError, match=r"it is not (JSON|a JSON object)"):
        from_json(text, WHERE)


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    text = to_json(INFO)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    changed = text[:at] + other + text[at + 1 :]
    try:
        found: BackupInfo | str = from_json(changed, WHERE)
    except AgentdError as error:
        found = error.kind
    assert found in (INFO, "backup-damaged")  # Between two values a blank may be another one.


def test_files_that_are_not_as_recorded() -> None:
    assert wrong_files(INFO, (RDB, BASE, FileDigest("backup.json", 1, "c"))) == ()
    found = (replace(RDB, size=91), FileDigest("stray", 1, "c"))
    assert wrong_files(INFO, found) == (f"{BASE.path} is missing", "dump.rdb has 91 bytes instead of 90")
    (said,) = wrong_files(INFO, (replace(RDB, sha256="d" * 64), BASE))
    assert said == "dump.rdb has another checksum than when it was made"


def test_keys_may_expire_and_nothing_else() -> None:
    assert missing_keys(INFO, {0: 100, 3: 5}, {0: 10}) == ""
    assert missing_keys(INFO, {0: 93, 3: 5}, {0: 3}) == "", "seven expired"
    assert missing_keys(INFO, {0: 90, 3: 5}, {}) == "", "all expired"
    assert missing_keys(INFO, {0: 99, 3: 5}, {0: 10}) == ("database 0 has 89 keys without a time to live instead of 90")
    assert missing_keys(INFO, {0: 100}, {0: 10}) == "database 3 has 0 keys without a time to live instead of 5"
    assert missing_keys(INFO, {0: 100, 3: 5, 7: 1}, {0: 10}) == (
        "database 7 has 1 keys without a time to live instead of 0"
    )
    assert missing_keys(INFO, {0: 101, 3: 5}, {0: 11}) == "database 0 has 11 keys with a time to live instead of 10"


def test_names() -> None:
    assert backup.directory_name("redis", 1_800_000_000.9) == "redis-20270115T080000Z"
    names = [
        *("redis-20270115T080000Z", "redis-20270115T080000Z.partial", "redis-20270115T080000Z.partial.partial"),
        *(
            "redis-20270115T080000Z.abc123.check.partial",
            "redis-2-20270115T080000Z",
            "redis-2-20270115T080000Z.partial",
        ),
        *("redis-20270114T080000Z", "redis-old", "redis-20270115T080000Z.tar", "other.partial"),
    ]
    assert backup.candidates("redis", names) == ("redis-20270114T080000Z", "redis-20270115T080000Z")
    assert backup.leftovers("redis", names) == (
        "redis-20270115T080000Z.abc123.check.partial",
        "redis-20270115T080000Z.partial",
        "redis-20270115T080000Z.partial.partial",
    )
    check = backup.check_name("redis-20270115T080000Z", "00ff")
    assert backup.leftovers("redis", [check]) == (check,)


def test_several_within_a_second_keep_their_order() -> None:
    names: list[str] = []
    for number in range(100):
        names.append(backup.free_name("redis", 1_800_000_000 + number / 10, names))
        names[:-3] = []
    assert names == sorted(set(names))
    assert backup.free_name("redis", 1_800_000_000, ["redis-20270115T090000Z"]) == "redis-20270115T080000Z"


def test_surplus() -> None:
    assert surplus({}, 3) == ()
    assert surplus({"a": True, "b": True, "c": True}, 2, new="c") == ("a",)
    assert surplus({"a": True, "b": True, "c": True}, 0, new="c") == ("a", "b"), "one stays"
    assert surplus({"a": True, "b": False, "c": False}, 1) == ("b",), "the last verified one stays"
    assert surplus({"a": True, "b": True, "c": False}, 1, new="c") == (), "an unverified one replaces no verified one"
    assert surplus({"a": False, "b": False, "c": False}, 2, new="c") == ("a",)
    assert surplus({"a": True, "y": True, "z": True}, 2, new="a") == ("y",), "the clock was set back"


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.booleans()), st.integers(0, 9), st.data())
def test_surplus_keeps_what_counts(backups: dict[str, bool], keep: int, data: st.DataObject) -> None:
    new = data.draw(st.sampled_from(sorted(backups))) if backups else ""
    gone = surplus(backups, keep, new=new)
    left = {name: loaded for name, loaded in backups.items() if name not in gone}
    assert len(left) >= min(len(backups), max(1, keep))
    assert any(left.values()) == any(backups.values())
    assert not new or new in left
    assert not new or backups[new] or not any(backups[name] for name in gone)


def state(keys: int, expires: int = 0, changes: int = 0, **fields: object) -> RedisState:
    return RedisState(keys=keys, expires=expires, rdb_changes=changes, fields={k: str(v) for k, v in fields.items()})


def test_the_counts_by_database() -> None:
    fields = {"db0": "keys=7,expires=2,avg_ttl=0", "db12": "keys=1,expires=0", "db0_distrib": "1=2", "dbx": "keys=1"}
    assert backup.databases(RedisState(fields=fields)) == ({0: 7, 12: 1}, {0: 2, 12: 0})


def test_nothing_written_is_exact() -> None:
    idle = state(1000, 100, 5, total_commands_processed=9)
    expected = expected_of_aof(idle, replace(idle, fields={"total_commands_processed": "12"}), idle)
    assert (expected.lasting, expected.passing, expected.changes) == (Range(900, 900), Range(100, 100), 0)
    assert shortfall(expected, {0: 900, 1: 100}, {1: 100}) == ""
    assert shortfall(expected, {0: 999}, {0: 100}) == "899 keys without a time to live instead of 900"
    assert shortfall(expected, {0: 1001}, {0: 100}) == "901 keys without a time to live instead of 900"
    assert shortfall(expected, {0: 999}, {0: 99}) == "99 keys with a time to live instead of 100"


def test_what_was_written_meanwhile() -> None:
    before, after = state(1000, 100, 5), state(1010, 100, 20)
    expected = expected_of_aof(before, after, after)
    assert expected.lasting == Range(885, 925)
    assert shortfall(expected, {0: 984}, {0: 100}) == "884 keys without a time to live instead of 885 to 925"
    assert shortfall(expected, {0: 985}, {0: 85}) == ""
    assert shortfall(expected, {0: 984}, {0: 90}) == "984 keys instead of 985 to 1025"
    evicted = replace(after, fields={"evicted_keys": "7"})
    assert expected_of_aof(before, evicted, evicted).lasting == Range(878, 932)


def test_a_save_in_between_makes_the_commands_count() -> None:
    before = replace(state(1000, 0, 50, total_commands_processed=100), rdb_saves=1)
    after = replace(state(1000, 0, 3, total_commands_processed=140), rdb_saves=2)
    assert expected_of_aof(before, after, after).changes == 40


def test_expired_keys() -> None:
    before, now = state(1000, 100), state(1000, 60, expired_keys=40)
    assert expected_of_aof(before, before, now).passing == Range(60, 100)
    assert expected_of_aof(before, before, before, stale=True).passing == Range(100, 100), "few: the server finds them"
    many = state(100_000, 50_000, expired_stale_perc="3.00")
    assert expected_of_aof(many, many, many).passing == Range(50_000, 50_000)
    assert expected_of_aof(many, many, many, stale=True).passing == Range(46_500, 50_000)
    broken = state(100_000, 50_000, expired_stale_perc="much")
    assert expected_of_aof(broken, broken, broken, stale=True).passing == Range(49_500, 50_000)


def test_the_last_rdb_lacks_what_came_since() -> None:
    now = state(1000, 0, 30)
    assert expected_of_rdb(now, now, now).lasting == Range(970, 1030)


def test_memory() -> None:
    assert memory_wanted(0) == 256 * 1024**2
    assert memory_wanted(10**9) == 1_200_000_000 + 256 * 1024**2


@given(st.lists(st.integers(1, 10**9)), st.sampled_from(["appendonly.aof", "a.b+c", "x y"]))
def test_new_parts_have_new_names(numbers: list[int], name: str) -> None:
    old = {f"{name}.{n}.{kind}" for n in numbers for kind in ("base.rdb", "incr.aof")} | {f"{name}.manifest", "other"}
    base, increment = part_names(name, old)
    assert not {base, increment} & old
    assert parse_manifest(render_manifest(base, (increment,))).increments == (increment,)
    assert max(numbers, default=0) < int(base.removeprefix(f"{name}.").partition(".")[0])
