"""agentctl redis: what a person reads, what a script gets, which exit code."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from fakes.cli import Run
from fakes.serving import Served
from fakes.stores import AT, AWAY, DURABLE, GOOD, RUNTIME_ONLY, STATE, VOID

from agentd.cli import store_text
from agentd.errors import AgentdError, ConflictError
from agentd.stores import Durability, StoreStatus
from agentd.types import Outcome
from agentd.wire import BackupRequest, StoreRequest, plain


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.cli.context.Context.now", lambda self: AT + 4)


def have(server: Served, *stores: StoreStatus) -> None:
    server.call(lambda ops: setattr(ops.redis, "list", list(stores)))


def test_status_of_a_durable_store(server: Served, run: Run) -> None:
    result = run("redis", "status")
    assert result.code == 0
    assert result.out.splitlines() == [
        "redis: durable  redis://127.0.0.1:6379, redis.service",
        "  persistence is as wanted, now and after a restart",
        "  keys       1000, 12 of them with a time to live; 177.0 MiB",
        "  run time   as wanted",
        "  file       as wanted",
        "  AOF        on, proven, 36.0 MiB, last rewrite took 2 s, 4 writes waited for the disk",
        "  RDB        ok, last save 3 min ago, 7 changes since",
        "  disk       12.0 GiB of 40.0 GiB free",
        "  backup     2 h ago, 36.0 MiB",
        "  drill      94 s ago: the data came back",
        "  server     redis 7.0.15, master, up 2 h",
        "  looked at  4 s ago",
    ]
    assert server.ops.redis.asked == [], "the snapshot is enough"


def test_status_tells_what_needs_attention_with_cause_and_fix(server: Served, run: Run) -> None:
    have(server, DURABLE, RUNTIME_ONLY)
    result = run("redis", "status")
    second = result.out.split("\n\n")[1].splitlines()
    assert second[0].startswith("redis: runtime-only")
    assert "  file       not as wanted" in second
    assert second[-2:] == [f"  x file:appendonly: {VOID.cause}", f"    fix {VOID.fix}"]
    assert "settings" not in result.out


def test_status_of_one_that_is_away_says_why_and_shows_its_age(server: Served, run: Run) -> None:
    have(server, AWAY)
    result = run("redis", "status", "redis")
    assert f"  {AWAY.problem}\n" in result.out
    assert "  run time   not verified\n" in result.out
    assert "  looked at  4 s ago\n" in result.out


def test_status_of_one_that_was_never_seen(server: Served, run: Run) -> None:
    have(server, StoreStatus("redis"))
    lines = run("redis", "status").out.splitlines()
    assert lines == ["redis: unknown", "  run time   not verified", "  file       not verified", "  looked at  never"]


def test_status_after_a_loss_names_the_copies_and_the_change(server: Served, run: Run) -> None:
    assert DURABLE.record is not None
    record = replace(DURABLE.record, loss="it came back empty where there were 1000 keys", evidence="/var/e\x1b[2J")
    have(server, replace(DURABLE, durability=Durability.DATA_LOSS, summary=record.loss, record=record, enforcing="r7"))
    result = run("redis", "status")
    assert "redis: data-loss" in result.out
    assert "  the files as they were found: /var/e [2J\n" in result.out
    assert "agentctl switch status r7 --follow" in result.out


def test_status_as_json_and_by_name(server: Served, run: Run) -> None:
    have(server, DURABLE, replace(RUNTIME_ONLY, name="cache"))
    assert [s["name"] for s in run("redis", "status", "--json").json] == ["redis", "cache"]
    assert run("redis", "status", "cache", "--json").json[0]["durability"] == "runtime-only"
    missing = run("redis", "status", "cahce")
    assert (missing.code, missing.err) == (2, 'agentctl: no store "cahce"\n  did you mean "cache"?\n')
    have(server)
    assert run("redis", "status").out == store_text.NONE + "\n"
    assert run("redis", "status", "x").err.endswith(store_text.NONE + "\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"aof_enabled": False}, "AOF        off"),
        ({"aof_rewrite_in_progress": True}, "a rewrite runs"),
        ({"aof_rewrite_scheduled": True}, "a rewrite waits for a save"),
        ({"aof_last_bgrewrite_ok": False, "aof_rewrite_failures": 3}, "the last rewrite failed (3 in a row)"),
        ({"aof_last_write_ok": False}, "the last write failed"),
        ({"rdb_last_bgsave_ok": False}, "RDB        failed, last save"),
        ({"rdb_bgsave_in_progress": True}, "RDB        a save runs, last save"),
        ({"rdb_saves": 0}, "not saved since its start"),
        ({"loading": True}, "up 2 h, loading its data"),
        ({"product": "valkey", "version": "8.0.1", "role": "slave"}, "server     valkey 8.0.1, slave"),
        ({"used_memory": 512}, "time to live; 512 bytes"),
    ],
)
def test_figures(server: Served, run: Run, change: dict[str, Any], expected: str) -> None:
    have(server, replace(DURABLE, state=replace(STATE, **change)))
    assert expected in run("redis", "status").out


def test_without_a_daemon_status_says_how_to_look(run: Run) -> None:
    result = run("redis", "status")
    assert result.code == 1
    assert "agentctl redis verify" in result.err


def test_verify_shows_every_finding_and_its_exit_code(server: Served, run: Run) -> None:
    result = run("redis", "verify")
    assert result.code == 0
    assert "redis: durable" in result.out
    assert "effective: settings" in result.out
    have(server, DURABLE, replace(RUNTIME_ONLY, name="cache"))
    result = run("redis", "verify", "--all")
    assert result.code == 1
    assert "overridden" in result.out
    assert f"why {VOID.cause}" in result.out
    assert "effective: settings" not in result.out
    assert run("redis", "verify", "redis").code == 0
    assert run("redis", "verify", "--json").json[1]["findings"][1]["aspect"] == VOID.aspect
    have(server)
    result = run("redis", "verify")
    assert (result.code, result.out) == (1, store_text.NONE + "\n"), "nothing is durable where nothing is looked at"


def test_verify_without_a_daemon_looks_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stores(name: str) -> list[Any]:
        asked.append(name)
        return [plain(replace(RUNTIME_ONLY, findings=(GOOD,)))]

    monkeypatch.setattr("agentd.offline.stores", stores, raising=False)
    result = run("redis", "verify", "redis", "--json")
    assert (result.code, asked) == (1, ["redis"])
    assert "fields" not in result.json[0]["state"]


def test_enforce_is_followed_to_its_end(server: Served, run: Run) -> None:
    result = run("redis", "enforce", "redis", "--accept-loss")
    assert (result.code, result.out) == (0, "enforcing persistence: redis (change r1)\nredis is durable (2.50 s)\n")
    assert server.ops.redis.asked[-1] == StoreRequest("redis", accept_loss=True)
    assert run("redis", "enforce", "--no-wait", "--json").json["message"] == "redis is durable"
    server.call(
        lambda ops: setattr(ops.redis, "end", (Outcome.REFUSED, 3, "redis: nothing was changed", "it is a replica"))
    )
    failed = run("redis", "enforce")
    assert (failed.code, failed.err) == (3, "agentctl: redis: nothing was changed\n  cause: it is a replica\n")


def test_dry_run_is_a_plan(server: Served, run: Run) -> None:
    result = run("redis", "enforce", "--dry-run")
    assert result.code == 0
    assert result.out.splitlines() == [
        "redis",
        "  1. save the RDB",
        "  2. CONFIG SET appendonly yes",
        "  3. wait for the proof",
        "  note  the file is a symbolic link",
        "nothing is done; do it with: agentctl redis enforce",
    ]
    server.call(lambda ops: setattr(ops.redis, "refusals", ("it is a replica",)))
    result = run("redis", "enforce", "redis", "--dry-run")
    assert result.code == 3
    assert "  refused  it is a replica\n" in result.out
    assert result.out.endswith("nothing is done; it would be refused\n")
    assert run("redis", "enforce", "--dry-run", "--json").json[0]["refusals"] == ["it is a replica"]
    server.call(lambda ops: (setattr(ops.redis, "refusals", ()), setattr(ops.redis, "steps", ())))
    assert "nothing to do: it is as wanted" in run("redis", "enforce", "--dry-run").out
    assert server.ops.redis.asked == ["", "redis", "", ""]


def test_drill_and_backup(server: Served, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert run("redis", "drill").out.startswith("trying the next start on a copy (change r1)\n")
    monkeypatch.chdir(tmp_path)
    assert run("redis", "backup", "redis", "--to", "b/../c", "--keep", "3").code == 0
    assert server.ops.redis.asked[-1] == BackupRequest("redis", os.path.join(tmp_path, "c"), 3)  # noqa: PTH118
    assert run("redis", "backup").out.startswith("backing up (change r1)\n")
    assert server.ops.redis.asked[-1] == BackupRequest()
    wrong = run("redis", "backup", "--keep", "0")
    assert (wrong.code, '"keep" must be a whole number from 1' in wrong.err) == (2, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AgentdError("redis-refused-state", "it is a replica"), 3),
        (AgentdError("data-loss", "it came back empty", hint="agentctl redis enforce --accept-loss"), 3),
        (AgentdError("redis-unreachable", "connection refused"), 1),
        (AgentdError("redis-timeout", "no answer within 5 s"), 1),
        (AgentdError("store-not-found", "no store"), 2),
        (ConflictError("busy with r0", "r0"), 8),
    ],
)
def test_errors_have_their_exit_codes(server: Served, run: Run, error: AgentdError, code: int) -> None:
    server.call(lambda ops: setattr(ops.redis, "fail", error))
    for verb in ("enforce", "drill", "backup"):
        result = run("redis", verb)
        assert (result.code, result.err.splitlines()[0]) == (code, f"agentctl: {error.message}")


def test_status_of_all_has_a_line_for_each_store_that_is_not_durable(server: Served, run: Run) -> None:
    assert run("status", "--check").code == 0
    have(server, DURABLE, replace(RUNTIME_ONLY, name="cache"), StoreStatus("new"))
    result = run("status", "--check")
    assert result.code == 1
    assert f"! store cache: runtime-only: {VOID.cause}\n" in result.out
    assert "! store new: unknown: see: agentctl redis status new\n" in result.out
    assert "store redis" not in result.out


def test_a_stopped_service_need_not_answer(server: Served, run: Run) -> None:
    from agentd.types import Health

    have(server, AWAY)
    assert "! store redis: unreachable: it cannot be asked\n" in run("status").out
    server.call(lambda ops: ops.service_list.__setitem__(2, replace(ops.service_list[2], health=Health.STOPPED)))
    assert "store redis" not in run("status").out


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert store_text.size(count) == text
