"""What acts on the gateway, as journaled changes: apply and rollback. One at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from agentd.core.gateway.problems import Problem, errors
from agentd.engine.steps import Ending, Progress, Steps, ended
from agentd.errors import AgentdError, ConflictError
from agentd.managers.gateway.acts import Acts
from agentd.managers.gateway.apply import Applier, Target
from agentd.managers.gateway.context import FileText, Gateway, GatewayPorts, Plan
from agentd.managers.gateway.judge import Wanted, fault, short
from agentd.managers.gateway.recover import Recovery
from agentd.types import Change, ExitCode, Outcome
from agentd.wire import GatewayPlan

APPLY, ROLLBACK, RESTART = "gateway-apply", "gateway-rollback", "gateway-restart"
KINDS = (APPLY, ROLLBACK, RESTART)
TOLD = 5
"""Problems in one message."""

Lock = Callable[[str], AbstractAsyncContextManager[object]]
"""Held by whoever changes the gateway of that name, in whatever process."""


@dataclass(frozen=True, slots=True)
class ActionParts:
    ports: GatewayPorts
    steps: Steps
    lock: Lock


class GatewayActions:
    def __init__(self, parts: ActionParts) -> None:
        self._parts = parts
        self._acts = Acts(parts.ports)
        self._running: tuple[Change, asyncio.Task[Change]] | None = None
        self._recovering: tuple[str, asyncio.Task[None]] | None = None

    def running(self) -> str:
        """Id of the change that is at work; "" when none is."""
        if self._running is not None and not self._running[1].done():
            return self._running[0].id
        if self._recovering is not None and not self._recovering[1].done():
            return self._recovering[0]
        return ""

    async def plan(self, gateway: Gateway, *, force: bool = False) -> GatewayPlan:
        """What an apply would do; nothing is changed."""
        plan = await gateway.careful.plan()
        refusal = _refusal(plan, force=force)
        if refusal is not None or plan.rendered is None:
            text = refusal.message if refusal is not None else ""
            return GatewayPlan(gateway.name, tuple(map(_line, plan.problems)), refusal=text)
        blue_green = await self._acts.blue_green(gateway)
        return GatewayPlan(
            gateway.name,
            tuple(map(_line, plan.problems)),
            up_to_date=plan.up_to_date,
            delta=plan.delta,
            left_out=tuple(f"{left.what}: {left.why}" for left in plan.rendered.left_out),
            way="blue-green" if blue_green else "restart",
        )

    async def apply(self, gateway: Gateway, *, force: bool = False) -> tuple[Change, asyncio.Task[Change]]:
        """Begun. Raises ConflictError while another one runs."""

        async def work(progress: Progress) -> Ending:
            await progress("validate", f"the sources in {gateway.policy.sources}")
            plan = await gateway.careful.plan()
            refusal = _refusal(plan, force=force)
            if refusal is not None or plan.rendered is None:
                raise refusal or AgentdError("gateway-invalid", "cannot apply: the sources give no configuration")
            return await self._applied(gateway, plan.rendered.text, plan.current, progress)

        return self._begin(APPLY, gateway, work)

    async def rollback(self, gateway: Gateway, version: str) -> tuple[Change, asyncio.Task[Change]]:
        """Begun. `version` "": the one before. Raises ConflictError, AgentdError("version-not-found")."""
        self._free(gateway)
        current = await gateway.files.generated()
        chosen = version or await self._one_before(gateway, current)
        text = await gateway.files.version_text(chosen)

        async def work(progress: Progress) -> Ending:
            await progress("validate", f"version {chosen}")
            return await self._applied(gateway, text, current, progress)

        return self._begin(ROLLBACK, gateway, work)

    async def restart(self, gateway: Gateway) -> tuple[Change, asyncio.Task[Change]]:
        """Begun: the process anew with the file as it is, for another environment. Raises ConflictError."""

        async def work(progress: Progress) -> Ending:
            await progress("validate", "the file as it is")
            text = await gateway.files.generated()
            if text is None:
                raise AgentdError("gateway-invalid", "cannot restart: there is no generated file")
            return await self._applied(gateway, text, text, progress, anew=True)

        return self._begin(RESTART, gateway, work)

    async def close(self) -> None:
        if self._running is not None:
            await ended(self._running[1])
        if self._recovering is not None:
            await ended(self._recovering[1])  # type: ignore[arg-type]

    # -- after a crash ----------------------------------------------------------------------------------------

    async def recover(self, gateway: Gateway | None) -> None:
        """Changes that an earlier agentd left open are closed once the gateway is in order; in a task, since LiteLLM
        may take a minute to start. Raises AgentdError when the journal cannot be read."""
        open_changes = [c for c in await self._parts.steps.store.open_changes() if c.kind in KINDS]
        if gateway is None:
            for change in open_changes:
                await self._parts.steps.cut_off(change, "agentd was stopped meanwhile; there is no gateway any more")
        elif open_changes and not self.running():
            task = asyncio.ensure_future(self._recovered(gateway, open_changes))
            self._recovering = (open_changes[0].id, task)

    async def sweep(self, gateway: Gateway) -> str:
        """Raises AgentdError."""
        return "" if self.running() else await Recovery(self._parts.ports, gateway).swept()

    async def _recovered(self, gateway: Gateway, changes: list[Change]) -> None:
        try:
            async with self._parts.lock(gateway.name):
                told = await Recovery(self._parts.ports, gateway).settle()
        except AgentdError as error:
            told = f"the gateway could not be put in order: {error.message}"
        for change in changes:
            await self._parts.steps.cut_off(change, f"agentd was stopped meanwhile; {told}")

    # -- inside -----------------------------------------------------------------------------------------------

    def _begin(
        self, kind: str, gateway: Gateway, work: Callable[[Progress], Awaitable[Ending]]
    ) -> tuple[Change, asyncio.Task[Change]]:
        async def alone(progress: Progress) -> Ending:
            async with self._parts.lock(gateway.name):
                return await work(progress)

        self._free(gateway)
        self._running = self._parts.steps.begin(kind, gateway.name, alone)
        return self._running

    def _free(self, gateway: Gateway) -> None:
        running = self.running()
        if running:
            raise ConflictError(f"change {running} is at work on {gateway.name}", running)

    async def _applied(
        self, gateway: Gateway, text: str, current: str | None, progress: Progress, *, anew: bool = False
    ) -> Ending:
        file = await self._read(text)
        if file.section is None:
            raise AgentdError("gateway-invalid", "cannot apply: it is no configuration of ours")
        key = gateway.key(await gateway.files.environment(), file.section)
        if not key:
            name = file.section.key_variable or "general_settings.master_key"
            message = f"cannot apply: {gateway.policy.env_file} has no {name}"
            raise AgentdError("gateway-no-key", message, hint="make one with: agentctl secrets init")
        running = (await self._acts.look(gateway.control, "")).digest
        if text == current and not anew and await self._is_served(gateway, file, key, running):
            message = f"{gateway.name} serves by configuration {short(file.digest)} already"
            return Ending(Outcome.ALREADY, message, ExitCode.OK)
        old = current if text != current else await self._version_of(gateway, running, file.digest)
        target = Target(text, file.digest, file.section.expected, old, await self._as_before(old, key))
        return await Applier(self._parts.ports, gateway, target, key, progress).run()

    async def _is_served(self, gateway: Gateway, file: FileText, key: str, running: str) -> bool:
        expected = file.section.expected if file.section is not None else None
        state = await self._acts.look(gateway.public, key, keyless=True)
        return running in ("", file.digest) and not fault(state, Wanted("", expected, True))

    async def _as_before(self, old: str | None, key: str) -> Wanted | None:
        if old is None:
            return None
        before = await self._read(old)
        expected = before.section.expected if before.section is not None else None
        return Wanted(before.digest, expected, bool(key))

    async def _version_of(self, gateway: Gateway, running: str, wanted: str) -> str | None:
        """The text that the process runs by, where that is not what it shall run by."""
        if not running or running == wanted:
            return None
        for version in await gateway.files.versions():
            if version.digest == running:
                return await gateway.files.version_text(version.id)
        return None

    async def _one_before(self, gateway: Gateway, current: str | None) -> str:
        now = (await self._read(current)).digest if current is not None else ""
        versions = await gateway.files.versions()
        found = next((v.id for v in versions if v.digest != now), "")
        if not found:
            raise AgentdError("version-not-found", "cannot roll back: there is no other version of the file")
        return found

    async def _read(self, text: str) -> FileText:
        return await self._parts.ports.aside(lambda: self._parts.ports.read(text))


def _refusal(plan: Plan, *, force: bool) -> AgentdError | None:
    if plan.rendered is None:
        wrong = errors(plan.problems)
        more = f"; and {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""
        text = "; ".join(map(_line, wrong[:TOLD])) or "they give no configuration"
        message = f"cannot apply: the sources are refused: {text}{more}"
        return AgentdError("gateway-invalid", message, hint="all of them: agentctl gateway validate")
    if plan.edited and not force:
        message = "cannot apply: the generated file was edited by hand, and the edit would be lost"
        hint = "put it into the sources (see: agentctl gateway diff), or use --force"
        return AgentdError("gateway-edited", message, hint=hint)
    return None


def _line(problem: Problem) -> str:
    return f"{problem.place}: {problem.text} [{problem.check}]"
