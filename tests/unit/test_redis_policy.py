"""What a policy asks of a server, what differs, and what comes before the append-only file is switched on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.quantities import QuantityError
from agentd.core.redis_leaves import MOST, credential, memory, points, readable, save_points
from agentd.core.redis_policy import NAMES, Drift, drift, same, settings_before_aof, wanted
from agentd.core.schema_redis import RedisPolicy
from agentd.core.schema_types import Bytes

POLICY = RedisPolicy()
RUNNING = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "3600 1 300 100 60 10000",
    "aof-use-rdb-preamble": "yes",
    "aof-load-truncated": "yes",
    "no-appendfsync-on-rewrite": "no",
    "stop-writes-on-bgsave-error": "yes",
    "auto-aof-rewrite-percentage": "100",
    "auto-aof-rewrite-min-size": "67108864",
}
MIB, GIB = 1 << 20, 1 << 30


def policy(**values: Any) -> RedisPolicy:
    return msgspec.structs.replace(POLICY, **values)


def test_the_defaults_are_what_config_get_shows() -> None:
    assert wanted(POLICY) == RUNNING
    assert set(NAMES) == {*RUNNING, "dir", "dbfilename", "appenddirname", "appendfilename"}
    assert len(set(NAMES)) == len(NAMES)


def test_every_wish_arrives() -> None:
    changed = policy(
        appendonly=False,
        appendfsync="always",
        save="900 1",
        aof_use_rdb_preamble=False,
        aof_load_truncated=False,
        no_appendfsync_on_rewrite=True,
        stop_writes_on_bgsave_error=False,
        auto_aof_rewrite_percentage=0,
        auto_aof_rewrite_min_size=Bytes(1),
    )
    found = wanted(changed)
    assert tuple(found.values()) == ("no", "always", "900 1", "no", "no", "yes", "no", "0", "1")
    assert [item.name for item in drift(changed, RUNNING)] == list(RUNNING)


def test_no_drift() -> None:
    assert drift(POLICY, RUNNING) == ()


def test_drift_says_what_was_found() -> None:
    running = {**RUNNING, "appendonly": "no", "save": "", "auto-aof-rewrite-min-size": "1mb"}
    assert drift(POLICY, running) == (
        Drift("appendonly", "yes", "no"),
        Drift("save", "3600 1 300 100 60 10000", ""),
        Drift("auto-aof-rewrite-min-size", "67108864", "1mb"),
    )


def test_what_the_server_does_not_know_is_no_drift() -> None:
    assert drift(POLICY, {}) == ()
    assert drift(POLICY, {"maxmemory": "0"}) == ()


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("save", "900 1 300 10", "300 10 900 1"),
        ("save", "900 1", " 0900  1 "),
        ("save", "", " "),
        ("appendonly", "yes", "YES"),
        ("auto-aof-rewrite-min-size", "67108864", "64mb"),
        ("auto-aof-rewrite-min-size", "64MB", "65536kb"),
        ("auto-aof-rewrite-percentage", "100", "0100"),
    ],
)
def test_texts_that_mean_the_same(name: str, one: str, other: str) -> None:
    assert same(name, one, other)
    assert same(name, other, one)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("save", "900 1", "900 1 900 1"),
        ("save", "900 1", "900 2"),
        ("save", "900 1", "1 900"),
        ("save", "", "900"),
        ("save", "60 1", "60 0"),
        ("appendfsync", "everysec", "always"),
        ("auto-aof-rewrite-min-size", "64m", "64mb"),
        ("auto-aof-rewrite-min-size", "0", "none"),
        ("auto-aof-rewrite-percentage", "100", ""),
    ],
)
def test_texts_that_differ(name: str, one: str, other: str) -> None:
    assert not same(name, one, other)


POINTS = st.lists(st.tuples(st.integers(1, MOST), st.integers(1, MOST)), max_size=5)


@settings(max_examples=100, deadline=None)
@given(POINTS, st.randoms())
def test_save_points_in_any_order_are_no_drift(found: list[tuple[int, int]], random: Any) -> None:
    text = " ".join(f"{seconds} {changes}" for seconds, changes in found)
    assert save_points(text) == text
    assert points(text) == tuple(found)
    shuffled = random.sample(found, len(found))
    running = {**RUNNING, "save": " ".join(f"{seconds} {changes}" for seconds, changes in shuffled)}
    assert drift(policy(save=text), running) == ()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789 -x+_", max_size=20) | st.text(max_size=10))
def test_any_text_is_save_points_or_an_error(text: str) -> None:
    try:
        shown = save_points(text)
    except QuantityError:
        return
    assert save_points(shown) == shown
    assert points(shown) == points(text)


def test_all_but_the_append_only_file_comes_first() -> None:
    running = {**RUNNING, "appendonly": "no", "appendfsync": "no", "save": ""}
    assert settings_before_aof(POLICY, running) == {"appendfsync": "everysec", "save": "3600 1 300 100 60 10000"}
    assert settings_before_aof(POLICY, RUNNING) == {}


@pytest.mark.parametrize("running", [{"appendonly": "no"}, {}])
def test_save_points_stay_until_the_append_only_file_is_on(running: dict[str, str]) -> None:
    """A first rewrite that fails would leave nothing on the disk."""
    bare = policy(save="", appendfsync="always")
    before = {**{name: value for name, value in RUNNING.items() if name != "appendonly"}, **running}
    assert settings_before_aof(bare, before) == {"appendfsync": "always"}
    assert settings_before_aof(bare, RUNNING) == {"appendfsync": "always", "save": ""}


def test_save_points_come_before_the_append_only_file_goes() -> None:
    assert settings_before_aof(policy(appendonly=False), {**RUNNING, "save": ""}) == {"save": POLICY.save}


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("64mb", 64 * MIB), ("64M", 64_000_000), ("1kb", 1024), ("2GB", 2 * GIB), ("7b", 7), (" 1k ", 1000)],
)
def test_sizes_of_redis(text: str, size: int) -> None:
    assert memory(text) == size


@pytest.mark.parametrize("text", ["", "mb", "-1", "1.5gb", "1tb", "1 mb", "٣"])
def test_no_sizes_of_redis(text: str) -> None:
    assert memory(text) is None


@pytest.mark.parametrize("text", ["", "redis-password", "a", "x" * 255, "a.b@c+d"])
def test_good_credentials(text: str) -> None:
    assert credential(text) == text


@pytest.mark.parametrize("text", [".", "..", "a/b", "a:b", "a b", "x" * 256, "ä", "a\n"])
def test_bad_credentials(text: str) -> None:
    with pytest.raises(QuantityError):
        credential(text)


def test_sizes_for_people() -> None:
    assert [readable(size) for size in (0, 1536 * 1024, GIB - 1, GIB * 2.5)] == [
        *("0.0 MiB", "1.5 MiB", "1024.0 MiB", "2.5 GiB"),
    ]
