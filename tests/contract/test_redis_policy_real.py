"""The policy and INFO's reader against a real redis-server: values as CONFIG GET shows them, drift, proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redisserver import SECONDS, RedisServer

from agentd.core.aof_manifest import parse_manifest
from agentd.core.redis_info import parse_info
from agentd.core.redis_leaves import MOST
from agentd.core.redis_policy import NAMES, drift, proof, settings_before_aof, wanted
from agentd.core.schema_redis import RedisPolicy
from agentd.stores import AofFiles, RedisState

POINTS = st.lists(st.tuples(st.integers(1, MOST), st.integers(1, MOST)), max_size=4)
POLICIES = st.builds(
    RedisPolicy,
    appendonly=st.just(False),
    appendfsync=st.sampled_from(["everysec", "always", "no"]),
    save=POINTS.map(lambda pairs: " ".join(f"{seconds} {changes}" for seconds, changes in pairs)),
    aof_use_rdb_preamble=st.booleans(),
    aof_load_truncated=st.booleans(),
    no_appendfsync_on_rewrite=st.booleans(),
    stop_writes_on_bgsave_error=st.booleans(),
    auto_aof_rewrite_percentage=st.integers(0, 1_000_000),
    auto_aof_rewrite_min_size=st.integers(0, 2**63 - 1),
)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Saves and rewrites take 20 ms for each key."""
    server = RedisServer(tmp_path, "appendfsync no\nsave 900 1\nrdb-key-save-delay 20000").start()
    yield server
    server.kill()


def info(server: RedisServer) -> RedisState:
    with server.client() as client:
        client.set_response_callback("INFO", str)
        return parse_info(client.execute_command("INFO"))


def running(server: RedisServer) -> dict[str, str]:
    with server.client() as client:
        return {str(name): str(value) for name, value in client.config_get(*NAMES).items()}


def apply(server: RedisServer, values: Any) -> None:
    with server.client() as client:
        assert client.config_set(*(word for pair in values.items() for word in pair))


def until(server: RedisServer, condition: Callable[[RedisState], bool]) -> RedisState:
    end = time.monotonic() + SECONDS
    while not condition(state := info(server)):
        assert time.monotonic() < end, state.fields
        time.sleep(0.01)  # A server tells nobody when its child has ended.
    return state


def files(server: RedisServer) -> AofFiles:
    """As they lie on the disk; the directory may not be there yet."""
    sizes = {path.name: path.stat().st_size for path in server.aof.iterdir()} if server.aof.is_dir() else {}
    manifest = server.aof / "appendonly.aof.manifest"
    return AofFiles(manifest.read_text() if manifest.name in sizes else None, sizes)


def unproven(server: RedisServer, state: RedisState, before: int | None) -> tuple[str, ...]:
    aof = files(server)
    manifest = parse_manifest(aof.manifest) if aof.manifest is not None else None
    return proof(state, rewrites_before=before, aof=aof, manifest=manifest)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=POLICIES)
def test_wanted_values_are_what_config_get_shows(quiet: RedisServer, policy: RedisPolicy) -> None:
    apply(quiet, wanted(policy))
    shown = running(quiet)
    assert {name: shown[name] for name in wanted(policy)} == wanted(policy)
    assert drift(policy, shown) == ()
    assert set(shown) == set(NAMES)


def test_the_reader_agrees_with_the_client_library(quiet: RedisServer) -> None:
    quiet.seed(5)
    with quiet.client() as client:
        client.expire("key:1", 1000)
        theirs = client.info()
    state = info(quiet)
    assert state.run_id == theirs["run_id"]
    assert (state.pid, state.version) == (quiet.pid, theirs["redis_version"])
    assert (state.config_file, state.role) == (str(quiet.config_file), theirs["role"])
    assert (state.keys, state.expires) == (theirs["db0"]["keys"], theirs["db0"]["expires"]) == (5, 1)
    assert state.rdb_changes == theirs["rdb_changes_since_last_save"]
    assert state.rdb_last_save == theirs["rdb_last_save_time"]
    assert state.total_system_memory == theirs["total_system_memory"] > 0
    # The library makes a list of its own of the lines "module:...", of which Redis 8 has some.
    assert set(theirs) - {"modules"} <= set(state.fields)


def test_from_no_append_only_file_to_a_proven_one(server: RedisServer) -> None:
    server.seed(50)
    policy = RedisPolicy()
    before = info(server)
    assert unproven(server, before, None) == (
        "the append-only file is off",
        "the append-only directory has no manifest",
    )

    apply(server, settings_before_aof(policy, running(server)))
    assert [item.name for item in drift(policy, running(server))] == ["appendonly"]

    apply(server, {"appendonly": "yes"})
    assert drift(policy, running(server)) == ()
    assert unproven(server, info(server), before.aof_rewrites) == (
        "a rewrite of the append-only file runs",
        "the append-only directory has no manifest",
    )

    after = until(server, lambda state: not state.saving)
    assert unproven(server, after, before.aof_rewrites) == ()


def test_a_switch_behind_a_save_is_not_proven(server: RedisServer) -> None:
    server.seed(50)
    with server.client() as client:
        client.bgsave(schedule=False)
    before = info(server).aof_rewrites
    apply(server, {"appendonly": "yes"})
    assert unproven(server, info(server), before) == (
        "a rewrite of the append-only file waits for its turn",
        f"no rewrite has begun since it was switched on (aof_rewrites is still {before})",
        "the append-only directory has no manifest",
    )


def test_save_points_outlive_the_wait_for_the_append_only_file(server: RedisServer) -> None:
    server.seed(50)
    policy = msgspec.structs.replace(RedisPolicy(), save="")
    apply(server, settings_before_aof(policy, running(server)))
    assert server.get("save") == "900 1"
    apply(server, {"appendonly": "yes"})
    until(server, lambda state: not state.saving)
    apply(server, settings_before_aof(policy, running(server)))
    assert drift(policy, running(server)) == ()


def test_a_later_rewrite_leaves_the_files_whole(server: RedisServer) -> None:
    server.seed(50)
    apply(server, {"appendonly": "yes"})
    until(server, lambda state: not state.saving)
    with server.client() as client:
        client.bgrewriteaof()
    assert unproven(server, info(server), None) == ("a rewrite of the append-only file runs",)
    assert len(parse_manifest(files(server).manifest or "").increments) == 2
