"""A daemon made of plain values, for the API and the command line: settable answers, recorded questions.

A switch goes through the phases of `FORWARD`, one per call of `advance`, or all at once when `instant` is set.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from agentd.api.operations import BusStatus, Check, ConfigStatus, DaemonStatus, ModelStatus, ServiceVerb
from agentd.engine.broadcast import Broadcast
from agentd.errors import AgentdError, ConflictError
from agentd.findings import Finding
from agentd.gpu import Gpu, GpuSnapshot
from agentd.model_facts import ModelFacts
from agentd.runtimes import RuntimeStatus
from agentd.types import (
    ActiveState,
    Change,
    Event,
    Health,
    Outcome,
    PhaseRecord,
    ProbeKind,
    ProbeStatus,
    Role,
    Scope,
    ServiceStatus,
    SlotStatus,
)
from agentd.wire import (
    EXIT_CODES,
    LeaseRequest,
    PrecheckItem,
    SleepCheckRequest,
    SwitchPlan,
    SwitchRequest,
    UnloadRequest,
)
from fakes.gateways import FakeGateway
from fakes.hardening import FakeHardening
from fakes.profiles import FakeProfiles
from fakes.stores import FakeRedis

NOW = 1_800_000_000.0
FORWARD = ("precheck", "drain", "release", "evict", "wait-vram", "start", "wait-ready", "verify")


def service(name: str, role: Role, health: Health, **more: Any) -> ServiceStatus:
    unit = f"vllm-{name}.service" if role is Role.MODEL else f"{name}.service"
    active = ActiveState.ACTIVE if health is Health.READY else ActiveState.INACTIVE
    passing = ProbeStatus(ProbeKind.READINESS, health is Health.READY, "200", NOW - 1, 0.004)
    values: dict[str, Any] = {"active_state": active, "probes": (passing,), "since": NOW - 60, "observed": NOW}
    return ServiceStatus(name, role, unit, health, **(values | more))


class FakeOperations:
    def __init__(self) -> None:
        self.checks = [Check("config", ok=True), Check("bus", ok=True), Check("first-pass", ok=True)]
        self.liveness = [Check("loop", ok=True)]
        self.service_list = [
            service("qwen", Role.MODEL, Health.READY, url="http://127.0.0.1:8001", main_pid=4711),
            service("dolphin", Role.MODEL, Health.STOPPED, url="http://127.0.0.1:8002"),
            service("redis", Role.STORE, Health.READY, url="redis://:hunter2@127.0.0.1:6379"),
        ]
        self.slot = SlotStatus("gpu0", "active", ("qwen", "dolphin"), "qwen", "qwen")
        self.gpu = GpuSnapshot("nvml", (Gpu(0, "GPU-1", "Test GPU", 24 << 30, 8 << 30, 16 << 30),), (), "", NOW)
        self.config_state = ConfigStatus(valid=True, loaded=NOW, attempted=NOW, files=("/etc/agentd/agentd.toml",))
        self.settings: Mapping[str, object] = {"settings": {"services": {"redis": {"url": "redis://:hunter2@h"}}}}
        self.learned: dict[str, ModelFacts] = {}
        self.finding_list: list[Finding] = []
        self.gpu_finding_list: list[Finding] = []
        self.runtime_list: list[RuntimeStatus] = []
        self.hardening = FakeHardening()
        self.redis = FakeRedis()
        self.gateway = FakeGateway()
        self.profiles = FakeProfiles()
        self.model_fields: dict[str, dict[str, Any]] = {}
        """Model -> fields of its status that a test wants otherwise."""
        self.event_list: list[Event] = []
        self.news: Broadcast[Event] = Broadcast()
        self.change_list: dict[str, Change] = {}
        self.change_news: Broadcast[Change] = Broadcast()
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, Exception] = {}
        """Operation -> what it raises."""
        self.instant = False
        self.end: tuple[Outcome, str, str] = (Outcome.DONE, "qwen is active", "")
        self.hold = asyncio.Event()
        """Cleared by a test that wants actions to wait."""
        self.hold.set()
        self.began = asyncio.Event()
        self.followers = 0
        self._touched = asyncio.Event()

    # -- reads -----------------------------------------------------------------------------------------------

    def daemon(self) -> DaemonStatus:
        return DaemonStatus("0.1.0", os.getpid(), Scope.USER, NOW, "qwen is active in slot gpu0")

    def live(self) -> Sequence[Check]:
        self._may_fail("live")
        return self.liveness

    def ready(self) -> Sequence[Check]:
        return self.checks

    def config_status(self) -> ConfigStatus:
        return self.config_state

    def bus_status(self) -> BusStatus:
        return BusStatus(connected=True, reconnects=1)

    def ages(self) -> Mapping[str, float]:
        return {"units": 0.5, "gpus": 1.5}

    def services(self) -> Sequence[ServiceStatus]:
        return self.service_list

    def slots(self) -> Sequence[SlotStatus]:
        return [self.slot]

    def facts_of(self, model: str) -> ModelFacts:
        return self.learned.get(model, ModelFacts(model))

    def models(self) -> Sequence[ModelStatus]:
        models = [s for s in self.service_list if s.role is Role.MODEL]
        made = (
            ModelStatus(m.name, "gpu0", m.unit, m.name, m.url, m.name == self.slot.resident, m.health) for m in models
        )
        return [dataclasses.replace(m, **self.model_fields.get(m.name, {})) for m in made]

    def runtimes(self) -> Sequence[RuntimeStatus]:
        return self.runtime_list

    def gpus(self) -> GpuSnapshot:
        return self.gpu

    def gpu_findings(self) -> Sequence[Finding]:
        return self.gpu_finding_list

    def findings(self) -> Sequence[Finding]:
        return self.finding_list

    def config(self) -> Mapping[str, object]:
        return self.settings

    def metrics(self, accept: str) -> tuple[str, bytes]:
        return "text/plain; version=0.0.4; charset=utf-8", b"agentd_ready 1.0\n"

    def events(self, limit: int, after: int = 0) -> Sequence[Event]:
        return [e for e in self.event_list if e.seq > after][-limit:]

    async def follow_events(self) -> AsyncGenerator[Event, None]:
        with self.news.listen() as items:
            async for event in items:
                yield event

    async def change(self, change_id: str) -> Change | None:
        return self.change_list.get(change_id)

    async def changes(self, limit: int) -> Sequence[Change]:
        return list(reversed(self.change_list.values()))[:limit]

    async def follow_change(self, change_id: str) -> AsyncGenerator[Change, None]:
        with self.change_news.listen() as news:
            self._count(1)
            try:
                yield self.change_list[change_id]
                async for change in news:
                    if change.id == change_id:
                        yield change
            finally:
                self._count(-1)

    # -- actions ---------------------------------------------------------------------------------------------

    async def switch(self, request: SwitchRequest) -> tuple[Change, bool]:
        await self._asked("switch", request)
        for running in (c for c in self.change_list.values() if c.finished is None):
            if running.target == request.target:
                return running, True
            raise ConflictError(f"slot gpu0 is busy with {running.id}", running.id)
        return self._begin("switch", request.target), False

    async def plan(self, request: SwitchRequest) -> SwitchPlan:
        await self._asked("plan", request)
        checks = (PrecheckItem("unit", True, "loaded"), PrecheckItem("vram", False, "needs 14G, 2G would be free"))
        return SwitchPlan("gpu0", request.target, self.slot.resident, False, checks, FORWARD, 42.0)

    async def unload(self, request: UnloadRequest) -> tuple[Change, bool]:
        await self._asked("unload", request)
        return self._begin("unload", None), False

    async def sleep_check(self, request: SleepCheckRequest) -> tuple[Change, bool]:
        await self._asked("sleep_check", request)
        return self._begin("sleep-check", request.model), False

    async def lease(self, request: LeaseRequest) -> tuple[Change, bool]:
        await self._asked("lease", request)
        return self._begin("lease", None), False

    async def end_lease(self, slot: str) -> Change | None:
        await self._asked("end_lease", slot)
        return None

    async def cancel(self, change_id: str) -> Change:
        await self._asked("cancel", change_id)
        change = self.change_list.get(change_id)
        if change is None or change.finished is not None:
            raise AgentdError("no-change", f"cannot cancel {change_id}: it does not run")
        self.finish(change_id, Outcome.CANCELLED, "cancelled; qwen still serves")
        return self.change_list[change_id]

    async def service_action(self, name: str, verb: ServiceVerb) -> ServiceStatus:
        await self._asked("service_action", name, verb)
        return next(s for s in self.service_list if s.name == name)

    async def reload(self) -> ConfigStatus:
        await self._asked("reload")
        return self.config_state

    # -- what a test does ------------------------------------------------------------------------------------

    def emit(self, kind: str, subject: str, message: str) -> Event:
        event = Event(len(self.event_list) + 1, NOW + len(self.event_list), kind, subject, message)
        self.event_list.append(event)
        self.news.publish(event)
        return event

    def put(self, change: Change) -> None:
        self.change_list[change.id] = change
        self.change_news.publish(change)
        self._touched.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something about followers or changes."""
        async with asyncio.timeout(20):
            while not condition():
                self._touched.clear()
                await self._touched.wait()

    def advance(self, change_id: str) -> None:
        """End the phase that runs, begin the next, or finish."""
        change = self.change_list[change_id]
        *ended, running = change.phases
        done = (*ended, dataclasses.replace(running, seconds=0.25, result="pass", detail=f"{running.phase} is over"))
        if len(done) == len(FORWARD):
            self.put(dataclasses.replace(change, phases=done))
            self.finish(change_id, *self.end)
            return
        phase = FORWARD[len(done)]
        self.put(dataclasses.replace(change, phase=phase, phases=(*done, PhaseRecord(phase, NOW + len(done)))))

    def finish(self, change_id: str, outcome: Outcome, message: str, cause: str = "") -> None:
        code = int(EXIT_CODES[outcome])
        change = dataclasses.replace(
            self.change_list[change_id],
            phase="active", finished=NOW + 3.5, outcome=outcome, exit_code=code, message=message, cause=cause,
        )  # fmt: skip
        self.put(change)

    def _count(self, step: int) -> None:
        self.followers += step
        self._touched.set()

    def _begin(self, kind: str, target: str | None) -> Change:
        change_id = f"{kind[0]}{len(self.change_list) + 1:010d}"
        phases = (PhaseRecord("precheck", NOW),)
        self.put(Change(change_id, kind, "gpu0", target, self.slot.resident, NOW, "precheck", phases=phases))
        while self.instant and self.change_list[change_id].finished is None:
            self.advance(change_id)
        return self.change_list[change_id]

    async def _asked(self, operation: str, *arguments: Any) -> None:
        self.calls.append((operation, *arguments))
        self.began.set()
        await self.hold.wait()
        self._may_fail(operation)

    def _may_fail(self, operation: str) -> None:
        if operation in self.fail:
            raise self.fail[operation]
