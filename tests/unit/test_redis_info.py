"""INFO's text: captured from real servers (paths and kernel replaced), cut short, and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.core.redis_info import parse_info
from agentd.stores import RedisState

DATA = Path(__file__).parent / "data/redis_info"


def captured(name: str) -> RedisState:
    return parse_info((DATA / f"{name}.txt").read_bytes().decode())


def test_a_server_without_append_only_file() -> None:
    state = captured("redis7-off")
    assert (state.product, state.version, state.role, state.loading) == ("redis", "7.0.15", "master", False)
    assert (state.executable, state.config_file) == ("/usr/bin/redis-server", "/etc/redis/redis.conf")
    assert (state.keys, state.expires, state.rdb_changes) == (307, 22, 327)
    assert len(state.run_id) == 40
    assert min(state.pid, state.used_memory, state.used_memory_rss, state.total_system_memory) > 0
    assert state.rdb_last_save > 1.7e9
    assert (state.aof_enabled, state.saving, state.aof_last_rewrite_seconds) == (False, False, -1)
    assert (state.aof_current_size, state.aof_base_size, state.aof_rewrites) == (0, 0, 0)
    assert state.fields["gcc_version"] == "12.2.0"


def test_the_first_rewrite_runs() -> None:
    state = captured("redis7-rewriting")
    assert (state.aof_enabled, state.aof_rewrite_in_progress, state.aof_rewrite_scheduled) == (True, True, False)
    assert (state.saving, state.aof_rewrites, state.aof_base_size) == (True, 1, 0)


def test_the_first_rewrite_waits_for_a_save() -> None:
    state = captured("redis7-scheduled")
    assert (state.aof_enabled, state.aof_rewrite_in_progress, state.aof_rewrite_scheduled) == (True, False, True)
    assert (state.saving, state.rdb_bgsave_in_progress, state.rdb_saves, state.aof_rewrites) == (True, True, 1, 0)


def test_the_append_only_file_is_on() -> None:
    state = captured("redis7-on")
    assert (state.aof_enabled, state.saving) == (True, False)
    assert (state.aof_last_bgrewrite_ok, state.aof_last_write_ok) == (True, True)
    assert (state.aof_rewrites, state.aof_rewrite_failures, state.aof_last_rewrite_seconds) == (1, 0, 0)
    assert state.aof_current_size > state.aof_base_size > 0
    assert state.keys == 308
    assert state.aof_last_cow_size > 0


def test_the_rewrite_failed() -> None:
    state = captured("redis7-failed")
    assert (state.aof_enabled, state.aof_last_bgrewrite_ok, state.aof_rewrite_failures) == (True, False, 1)
    assert state.aof_rewrite_scheduled, "it is tried again"


def test_a_server_that_loads() -> None:
    """The append-only file is configured, and INFO calls it off until the data set is there."""
    state = captured("redis7-loading")
    assert (state.loading, state.aof_enabled, state.keys, state.rdb_last_load_keys) == (True, False, 298, 298)


def test_a_replica_that_loads_in_the_background() -> None:
    assert parse_info("loading:0\r\nasync_loading:1\r\n").loading


def test_a_replica() -> None:
    assert captured("redis7-replica").role == "slave"


@pytest.mark.parametrize(
    ("name", "product", "version"),
    [
        ("redis6-on", "redis", "6.0.16"),
        ("redis8-on", "redis", "8.0.2"),
        ("valkey80-on", "valkey", "8.0.1"),
    ],
)
def test_other_servers(name: str, product: str, version: str) -> None:
    state = captured(name)
    assert (state.product, state.version, state.role) == (product, version, "master")
    assert (state.keys, state.expires) == (308, 22)
    assert (state.aof_enabled, state.saving, state.aof_rewrites) == (True, False, 0 if name == "redis6-on" else 1)
    assert state.aof_current_size > state.aof_base_size > 0
    assert state.config_file == f"/etc/{product}/{product}.conf"


@pytest.mark.parametrize("name", ["redis6-rewriting", "redis8-rewriting", "valkey81-rewriting"])
def test_other_servers_rewrite(name: str) -> None:
    state = captured(name)
    assert (state.aof_enabled, state.aof_rewrite_in_progress, state.saving) == (True, True, True)


def test_a_valkey_without_a_version_of_its_own() -> None:
    state = parse_info("redis_version:7.2.4\r\nserver_name:valkey\r\n")
    assert (state.product, state.version) == ("valkey", "7.2.4")


def test_nothing_gives_the_defaults() -> None:
    assert parse_info("") == RedisState()
    assert parse_info("# Server\r\n\r\nno colon\r\n:no name\r\n") == RedisState()


def test_a_broken_number_counts_as_absent() -> None:
    state = parse_info("used_memory:12x\naof_last_rewrite_time_sec:\nprocess_id:٣\nrdb_saves:1e3\naof_enabled:yes\n")
    assert (state.used_memory, state.aof_last_rewrite_seconds, state.pid, state.rdb_saves) == (0, -1, 0, 0)
    assert not state.aof_enabled


def test_an_unknown_status_is_not_ok() -> None:
    state = parse_info("aof_last_write_status:err\naof_last_bgrewrite_status:\nrdb_last_bgsave_status:odd\n")
    assert (state.aof_last_write_ok, state.aof_last_bgrewrite_ok, state.rdb_last_bgsave_ok) == (False, False, False)


def test_values_keep_their_colons() -> None:
    assert parse_info("config_file:/srv/a:b.conf\r\n").config_file == "/srv/a:b.conf"


def test_only_databases_are_counted() -> None:
    lines = ["db0:keys=3,expires=1,avg_ttl=0,subexpiry=0", "db12:keys=4,avg_ttl=x", "db3:keys=,expires=2", "db4"]
    state = parse_info("\n".join([*lines, "db0_distrib_strings_sizes:1=5", "db:keys=9"]))
    assert (state.keys, state.expires) == (7, 3)


REAL = (DATA / "redis7-on.txt").read_text().splitlines()
LINES = st.sampled_from([*REAL, "loading:", "role:", "db0:keys=1", "db1:", "aof_enabled:1", "db2:keys=1=2,=,"])


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES | st.text(max_size=20)), st.sampled_from(["\n", "\r\n"]))
def test_any_text_is_a_state(lines: list[str], end: str) -> None:
    text = end.join(lines)
    state = parse_info(text)
    assert state.role
    assert all(f"{name}:{value}" in text for name, value in state.fields.items())


@settings(max_examples=50, deadline=None)
@given(st.permutations(REAL), st.sampled_from(["\n", "\r\n"]))
def test_the_order_does_not_matter(lines: list[str], end: str) -> None:
    assert parse_info(end.join(lines)) == parse_info("\n".join(REAL))
