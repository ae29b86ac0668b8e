"""The gateway of a daemon that is made of plain values: settable status, recorded requests."""

from __future__ import annotations

from typing import Any

from agentd.errors import AgentdError
from agentd.findings import Finding, Severity, Verdict
from agentd.gateway import GatewayFigures, GatewayProblem, GatewayState, GatewayStatus, SlotModelStatus
from agentd.types import Change, PhaseRecord
from agentd.wire import GatewayPlan, GatewayRequest

NOW = 1_800_000_000.0
DIGEST = "1a2b3c4d" * 8


def gateway_status(**more: Any) -> GatewayStatus:
    """One that serves as it should."""
    values: dict[str, Any] = {
        "state": GatewayState.READY,
        "at": NOW - 4,
        "alive": True,
        "ready": True,
        "version": "1.106.2",
        "running_digest": DIGEST,
        "file_digest": DIGEST,
        "wanted_digest": DIGEST,
        "up_to_date": True,
        "running_matches": True,
        "expected": ("dolphin", "qwen"),
        "listed": ("dolphin", "qwen"),
        "key_ok": True,
        "open_without_key": False,
        "blue_green": True,
        "models": (SlotModelStatus("qwen", "qwen", "gpu0", "fallback", True),),
        "figures": GatewayFigures({"qwen/vllm/0": 0}, {"qwen/vllm/0": 2}, {"qwen": 5}, {}),
    }
    return GatewayStatus("litellm", "litellm.service", "http://127.0.0.1:4001", **(values | more))


def stale_status() -> GatewayStatus:
    """Its sources have an error and a warning."""
    problems = (
        GatewayProblem("fallback-cycle", "error", "model-mappings.yaml:7:3", "a", "a falls back to itself", "break it"),
        GatewayProblem("no-limit", "warning", "model-mappings.yaml:9:3", "b", "b has no limit", "give it one"),
    )
    finding = Finding(
        "litellm.service",
        "sources",
        Verdict.NOT_INSTALLED,
        Severity.WARNING,
        cause="the sources have 1 error",
        fix="agentctl gateway validate",
    )
    return gateway_status(up_to_date=None, wanted_digest="", problems=problems, findings=(finding,))


class FakeGateway:
    """Implements api.operations_gateway.GatewayOperations."""

    def __init__(self) -> None:
        self.known: GatewayStatus | None = gateway_status()
        self.calls: list[tuple[str, GatewayRequest | None]] = []
        self.fail: AgentdError | None = None
        self.a_plan = GatewayPlan(
            "litellm", delta="-old\n+new\n", left_out=("cloud: it is disabled",), way="blue-green"
        )

    def status(self) -> GatewayStatus | None:
        return self.known

    async def verify(self) -> GatewayStatus:
        self._asked("verify", None)
        assert self.known is not None
        return self.known

    async def plan(self, request: GatewayRequest) -> GatewayPlan:
        self._asked("plan", request)
        return self.a_plan

    async def apply(self, request: GatewayRequest) -> Change:
        return self._begun("apply", request)

    async def rollback(self, request: GatewayRequest) -> Change:
        return self._begun("rollback", request)

    async def restart(self) -> Change:
        return self._begun("restart", None)

    def _begun(self, verb: str, request: GatewayRequest | None) -> Change:
        self._asked(verb, request)
        phases = (PhaseRecord("validate", NOW),)
        return Change("g1", f"gateway-{verb}", "", "litellm", None, NOW, "validate", phases=phases)

    def _asked(self, verb: str, request: GatewayRequest | None) -> None:
        self.calls.append((verb, request))
        if self.fail is not None:
            raise self.fail
