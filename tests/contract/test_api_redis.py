"""Stores over HTTP: the snapshot for everybody, actions for the owner, errors as problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.doors import serving
from fakes.stores import AWAY, RAW, RUNTIME_ONLY, FakeRedis

from agentd.api.operations_redis import RedisOperations
from agentd.errors import AgentdError, ConflictError
from agentd.wire import BackupRequest, StoreRequest


def test_fake_has_every_operation() -> None:
    ops: RedisOperations = FakeRedis()
    assert {n for n in vars(RedisOperations) if not n.startswith("_")} <= set(dir(ops))


async def test_snapshot_is_public_and_without_the_raw_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.redis.list.append(RUNTIME_ONLY)
        code, body = await doors.tcp_json("GET", "/v1/redis")
        assert code == 200
        first, second = body["stores"]
        assert (first["name"], first["durability"], first["state"]["keys"]) == ("redis", "durable", 1000)
        assert first["space"] == {"free": 12 << 30, "total": 40 << 30}
        assert first["record"]["drill_ok"] is True
        assert second["findings"][1]["fix"] == RUNTIME_ONLY.findings[1].fix
        assert "fields" not in first["state"]
        assert RAW not in json.dumps(body)
        _, status = await doors.tcp_json("GET", "/v1/status")
        assert status["stores"] == body["stores"]
        assert doors.ops.redis.asked == []


async def test_a_store_that_is_away_keeps_what_it_said_last(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.redis.list[:] = [AWAY]
        _, body = await doors.json("GET", "/v1/redis")
        assert (body["stores"][0]["problem"], body["stores"][0]["runtime"]) == (AWAY.problem, None)


async def test_verify_looks_anew(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("POST", "/v1/redis/verify", json={"store": "redis"})
        assert (code, [s["name"] for s in body["stores"]]) == (200, ["redis"])
        code, body = await doors.json("POST", "/v1/redis/verify")
        assert code == 200
        assert doors.ops.redis.asked == ["redis", ""]


async def test_enforce_is_a_change_and_a_dry_run_is_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.redis.refusals = ("it is a replica",)
        code, body = await doors.json("POST", "/v1/redis/enforce", json={"store": "redis", "dry_run": True})
        assert code == 200
        assert body["plans"][0]["store"] == "redis"
        assert body["plans"][0]["refusals"] == ["it is a replica"]
        assert doors.ops.redis.asked == ["redis"]
        async with doors.unix.post("/v1/redis/enforce", json={"store": "redis", "accept_loss": True}) as answer:
            assert answer.status == 202
            assert answer.headers["Location"] == "/v1/changes/r1"
            body = json.loads(await answer.read())
        assert (body["change"]["kind"], body["joined"]) == ("redis-enforce", False)
        assert doors.ops.redis.asked[-1] == StoreRequest("redis", accept_loss=True)


async def test_drill_and_backup_are_changes(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("POST", "/v1/redis/drill")
        assert (code, body["change"]["kind"]) == (202, "redis-drill")
        code, body = await doors.json("POST", "/v1/redis/backup", json={"to": "/srv/b", "keep": 3})
        assert (code, body["change"]["kind"]) == (202, "redis-backup")
        assert doors.ops.redis.asked[-1] == BackupRequest("", "/srv/b", 3)
        code, _ = await doors.json("POST", "/v1/redis/backup", json={"keep": None})
        assert (code, doors.ops.redis.asked[-1]) == (202, BackupRequest())


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("backup", b'{"keep": 0}', '"keep" must be a whole number from 1'),
        ("backup", b'{"keep": 2.5}', '"keep" must be a whole number or null'),
        ("backup", b'{"keep": true}', '"keep" must be a whole number or null'),
        ("backup", b'{"keep": 1e3}', '"keep" must be a whole number or null'),
        ("backup", b'{"keep": 99999999}', '"keep" must be a whole number from 1 to 1000000'),
        ("backup", b'{"to": "backups"}', '"to" must be an absolute path'),
        ("backup", b'{"to": "/a\\u0000b"}', '"to" must be an absolute path'),
        ("backup", b'{"kepe": 1}', 'unknown field "kepe", did you mean "keep"?'),
        ("enforce", b'{"dry_run": 1}', '"dry_run" must be true or false'),
        ("enforce", b'{"stroe": "redis"}', 'did you mean "store"?'),
        ("drill", b'{"dry_run": true}', '"dry_run" is only for /v1/redis/enforce'),
        ("verify", b'{"accept_loss": true}', '"accept_loss" is only for /v1/redis/enforce'),
    ],
)
async def test_bad_bodies_say_what_is_wrong(tmp_path: Path, path: str, body: bytes, expected: str) -> None:
    async with serving(tmp_path) as doors:
        code, answer = await doors.json("POST", f"/v1/redis/{path}", data=body)
        assert (code, answer["kind"]) == (400, "bad-request")
        assert expected in answer["detail"]
        assert doors.ops.redis.asked == []


async def test_errors_map_to_statuses(tmp_path: Path) -> None:
    cases: list[tuple[AgentdError, int]] = [
        (AgentdError("store-not-found", "no store"), 404),
        (AgentdError("redis-refused-state", "it is a replica"), 409),
        (AgentdError("data-loss", "it came back empty"), 409),
        (ConflictError("busy with r0", "r0"), 409),
        (AgentdError("redis-unreachable", "connection refused"), 503),
        (AgentdError("redis-timeout", "no answer within 5 s"), 503),
        (AgentdError("redis-loading", "it loads its data"), 503),
        (AgentdError("redis-slow", "not finished within 1800 s"), 409),
    ]
    async with serving(tmp_path) as doors:
        for error, expected in cases:
            doors.ops.redis.fail = error
            code, body = await doors.json("POST", "/v1/redis/enforce")
            assert (code, body["kind"], body["detail"]) == (expected, error.kind, error.message)
        code, body = await doors.json("POST", "/v1/redis/verify", json={"store": "reddis"})
        assert (code, body["kind"], body["hint"]) == (404, "store-not-found", 'did you mean "redis"?')


async def test_only_the_owner_acts(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        for path in ("enforce", "verify", "drill", "backup"):
            code, body = await doors.tcp_json("POST", f"/v1/redis/{path}", json={})
            assert code in (403, 405), body
        assert doors.ops.redis.asked == []


async def test_the_description_leaves_out_what_the_answer_leaves_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        _, body = await doors.json("GET", "/openapi.json")
        _, answer = await doors.json("GET", "/v1/redis")
    schemas = body["components"]["schemas"]
    for name, value in (("StoreStatus", answer["stores"][0]), ("RedisState", answer["stores"][0]["state"])):
        assert set(schemas[name]["properties"]) == set(value)
    assert schemas["BackupRequest"]["properties"]["keep"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert "data-loss" in schemas["StoreStatus"]["properties"]["durability"]["enum"]
