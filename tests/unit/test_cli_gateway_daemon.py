"""agentctl gateway status and apply: what a person reads, what a script gets, which exit code."""

from __future__ import annotations

import pytest
from fakes.cli import Run
from fakes.gateways import NOW, gateway_status, stale_status
from fakes.serving import Served

from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.gateway import GatewayState, GatewayStatus, SlotModelStatus
from agentd.wire import GatewayPlan, GatewayRequest


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.cli.context.Context.now", lambda self: NOW)


def have(server: Served, status: GatewayStatus | None) -> None:
    server.call(lambda ops: setattr(ops.gateway, "known", status))


def test_status_of_one_that_serves(server: Served, run: Run) -> None:
    result = run("gateway", "status")
    assert result.code == 0
    assert result.out.splitlines() == [
        "litellm: ready  http://127.0.0.1:4001, litellm.service",
        "  models       2: dolphin, qwen",
        "  key          taken",
        "  config       1a2b3c4d1a2b",
        "  sources      as in the file",
        "  slot model   qwen in gpu0, resident",
        "  breakers     opened 2 times since its start",
        "  fallbacks    5 answered, 0 failed since its start",
        "  changes      without an interruption",
        "  LiteLLM      1.106.2",
        "  looked at    4 s ago",
    ]
    assert server.ops.gateway.calls == [], "the snapshot is enough"


def test_status_with_something_to_do(server: Served, run: Run) -> None:
    have(server, stale_status())
    result = run("gateway", "status", "--check")
    assert result.code == 1
    assert "  sources      1 error, 1 warning" in result.out
    assert "sources: the sources have 1 error" in result.out
    assert "fix agentctl gateway validate" in result.out


def test_an_alarm_is_a_concern_of_the_whole(server: Served, run: Run) -> None:
    open_ = Finding("litellm.service", "key", Verdict.NOT_EFFECTIVE, Severity.ERROR, cause="it answers without a key")
    absent = (SlotModelStatus("qwen", "qwen", "gpu0", "wait", resident=False),)
    have(
        server,
        gateway_status(state=GatewayState.OPEN, summary="it answers without a key", findings=(open_,), models=absent),
    )
    result = run("status")
    assert "gateway litellm: open, 2 models, absent: qwen, configuration 1a2b3c4d" in result.out
    assert "litellm: open: it answers without a key; see: agentctl gateway status" in result.out
    assert "qwen in gpu0, absent: wait" in run("gateway", "status").out


def test_a_look_of_now(server: Served, run: Run) -> None:
    assert run("gateway", "status", "--look", "--json").code == 0
    assert server.ops.gateway.calls == [("verify", None)]


def test_without_a_gateway(server: Served, run: Run) -> None:
    have(server, None)
    assert "no gateway is configured" in run("gateway", "status").out
    assert "gateway" not in run("status").out


def test_a_dry_run(server: Served, run: Run) -> None:
    result = run("gateway", "apply", "--dry-run", "--force")
    assert result.code == 0
    assert result.out.splitlines() == [
        "-old",
        "+new",
        "left out  cloud: it is disabled",
        "nothing is done; do it with: agentctl gateway apply (a standby serves meanwhile)",
    ]
    assert server.ops.gateway.calls == [("plan", GatewayRequest(dry_run=True, force=True))]


def test_a_dry_run_that_would_be_refused(server: Served, run: Run) -> None:
    refused = GatewayPlan("litellm", ("m.yaml:1:2: a loops [fallback-cycle]",), refusal="cannot apply: a loops")
    server.call(lambda ops: setattr(ops.gateway, "a_plan", refused))
    result = run("gateway", "apply", "--dry-run")
    assert result.code == 3
    assert "problem  m.yaml:1:2: a loops [fallback-cycle]" in result.out
    assert "nothing is done; it would be refused" in result.out


def test_apply_begins_a_change(server: Served, run: Run) -> None:
    result = run("gateway", "apply", "--no-wait")
    assert result.code == 0
    assert server.ops.gateway.calls == [("apply", GatewayRequest())]
    server.call(lambda ops: setattr(ops.gateway, "fail", AgentdError("gateway-not-found", "no gateway is configured")))
    assert "no gateway is configured" in run("gateway", "apply").err
