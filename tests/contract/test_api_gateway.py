"""The gateway over HTTP: the snapshot for everybody, actions for the owner, errors as problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.doors import serving
from fakes.gateways import FakeGateway

from agentd.api.operations_gateway import GatewayOperations
from agentd.errors import AgentdError, ConflictError
from agentd.wire import GatewayRequest


def test_fake_has_every_operation() -> None:
    ops: GatewayOperations = FakeGateway()
    assert {n for n in vars(GatewayOperations) if not n.startswith("_")} <= set(dir(ops))


async def test_the_snapshot_is_public(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.tcp_json("GET", "/v1/gateway")
        assert (code, body["gateway"]["state"], body["gateway"]["expected"]) == (200, "ready", ["dolphin", "qwen"])
        assert body["gateway"]["figures"]["cooldowns"] == {"qwen/vllm/0": 2}
        _, status = await doors.tcp_json("GET", "/v1/status")
        assert status["gateway"] == body["gateway"]
        doors.ops.gateway.known = None
        assert (await doors.tcp_json("GET", "/v1/gateway"))[1] == {"gateway": None}
        assert doors.ops.gateway.calls == []


async def test_apply_is_a_change_and_a_dry_run_is_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as doors:
        code, body = await doors.json("POST", "/v1/gateway/apply", json={"dry_run": True, "force": True})
        assert (code, body["plan"]["way"], body["plan"]["delta"]) == (200, "blue-green", "-old\n+new\n")
        code, body = await doors.json("POST", "/v1/gateway/apply")
        assert (code, body["change"]["kind"], body["change"]["target"]) == (202, "gateway-apply", "litellm")
        code, body = await doors.json("POST", "/v1/gateway/rollback", json={"version": "v1"})
        assert (code, body["change"]["kind"]) == (202, "gateway-rollback")
        code, body = await doors.json("POST", "/v1/gateway/restart")
        assert (code, body["change"]["kind"]) == (202, "gateway-restart")
        code, body = await doors.json("POST", "/v1/gateway/verify")
        assert (code, body["gateway"]["state"]) == (200, "ready")
        assert doors.ops.gateway.calls == [
            ("plan", GatewayRequest(dry_run=True, force=True)),
            ("apply", GatewayRequest()),
            ("rollback", GatewayRequest(version="v1")),
            ("restart", None),
            ("verify", None),
        ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("apply", {"version": "v1"}),
        ("rollback", {"dry_run": True}),
        ("rollback", {"force": True}),
        ("restart", {"dry_run": True}),
        ("apply", {"unknown": 1}),
        ("apply", {"force": "yes"}),
    ],
)
async def test_what_does_not_belong_is_refused(tmp_path: Path, path: str, body: dict[str, object]) -> None:
    async with serving(tmp_path) as doors:
        code, answer = await doors.json("POST", f"/v1/gateway/{path}", json=body)
        assert (code, answer["kind"]) == (400, "bad-request")
        assert doors.ops.gateway.calls == []


@pytest.mark.parametrize("verb", ["apply", "rollback", "restart", "verify"])
async def test_only_the_owner_acts(tmp_path: Path, verb: str) -> None:
    async with serving(tmp_path) as doors:
        code, _ = await doors.tcp_json("POST", f"/v1/gateway/{verb}")
        assert code in (403, 405)
        assert doors.ops.gateway.calls == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AgentdError("gateway-not-found", "no gateway is configured"), 404),
        (AgentdError("gateway-invalid", "cannot apply: the sources are refused"), 422),
        (AgentdError("gateway-edited", "cannot apply: edited"), 409),
        (AgentdError("version-not-found", "there is no version v1"), 404),
        (ConflictError("change g1 is at work", "g1"), 409),
    ],
)
async def test_errors_are_problems(tmp_path: Path, error: AgentdError, status: int) -> None:
    async with serving(tmp_path) as doors:
        doors.ops.gateway.fail = error
        code, body = await doors.json("POST", "/v1/gateway/apply")
        assert (code, body["kind"], body["detail"]) == (status, error.kind, error.message)
