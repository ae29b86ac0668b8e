"""A new configuration put to use: checked by a LiteLLM that is started with it, then written, then served.

Until the file is written, nothing that serves was touched. From then on whatever goes wrong brings the old file back;
with a standby, requests are answered throughout.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agentd.engine.steps import Ending, Step
from agentd.errors import AgentdError
from agentd.managers.gateway.acts import Acts
from agentd.managers.gateway.context import Gateway, GatewayPorts
from agentd.managers.gateway.judge import Wanted, fault, short
from agentd.types import ExitCode, Outcome

log = logging.getLogger(__name__)

CANDIDATE, CHECK, WRITE, TAKEOVER, RESTART, FINISH, UNDO = (
    "candidate",
    "check",
    "write",
    "takeover",
    "restart",
    "finish",
    "undo",
)


@dataclass(frozen=True, slots=True)
class Target:
    """`text` is what the file shall hold, `old` what it holds now."""

    text: str
    digest: str
    expected: tuple[str, ...]
    old: str | None
    old_wanted: Wanted | None = None
    """What the gateway is by the old file; None when there is none to go back to."""


class Applier:
    """One run for each change."""

    def __init__(self, ports: GatewayPorts, gateway: Gateway, target: Target, key: str, progress: Step) -> None:
        self._ports = ports
        self._acts = Acts(ports)
        self._gateway = gateway
        self._target = target
        self._key = key
        self._progress = progress
        self._wanted = Wanted(target.digest, target.expected, bool(key))
        self._standby = False
        self._lack = ""
        """Why there is no standby, though there should be one."""
        self._restarting = False

    async def run(self) -> Ending:
        """Raises AgentdError when it is refused: then what serves was not touched."""
        await self._acts.loaded(self._gateway)
        if self._gateway.policy.apply == "blue-green":
            self._lack = await self._acts.lack(self._gateway)
            self._standby = not self._lack
        await self._checked()
        await self._written()
        try:
            await self._served()
        except AgentdError as error:
            return await self._back(error)
        return await self._finished()

    # -- the way forward --------------------------------------------------------------------------------------

    async def _checked(self) -> None:
        """A LiteLLM runs by it, and is what it promises. Nobody is served by that one yet."""
        gateway, files = self._gateway, self._gateway.files
        try:
            await self._progress(CANDIDATE, f"configuration {short(self._target.digest)} is laid beside the file")
            await self._acts.stopped(gateway, gateway.standby_unit)
            path = await files.write_candidate(self._target.text)
            if self._standby:
                await self._progress(CHECK, f"{gateway.standby_unit} is started with it")
                await self._acts.started(gateway, gateway.standby_unit)
                await self._acts.ready(gateway, gateway.standby, gateway.standby_unit, self._wanted, self._key)
            elif gateway.policy.check:
                await self._progress(CHECK, "a LiteLLM of its own is started with it on a spare port")
                await self._tried(path)
        except AgentdError as error:
            await self._tidy()
            hint = error.hint or "what is served now is untouched"
            raise AgentdError(
                "gateway-check", f"cannot use the new configuration: {error.message}", hint=hint
            ) from None

    async def _tried(self, path: str) -> None:
        ports, policy = self._ports, self._gateway.policy
        environment = await self._gateway.files.environment()
        scratch = await ports.aside(lambda: ports.scratch(policy))
        proxy = await scratch.start(path, environment, timeout=policy.start_timeout)
        try:
            state = await self._acts.look(proxy.endpoint, self._key, keyless=True)
            wrong = fault(state, Wanted(state.digest and self._target.digest, self._target.expected, bool(self._key)))
            if wrong:
                raise AgentdError("gateway-not-ready", f"LiteLLM starts with it, but {wrong}")
        finally:
            await proxy.stop()

    async def _written(self) -> None:
        """All or nothing, so that a failure is a refusal."""
        gateway = self._gateway
        try:
            await self._progress(WRITE, f"{gateway.policy.config} becomes {short(self._target.digest)}")
            await gateway.files.write(self._target.text)
        except AgentdError:
            await self._tidy()
            raise

    async def _served(self) -> None:
        gateway = self._gateway
        if self._standby:
            await self._progress(TAKEOVER, f"{gateway.standby_unit} takes requests, too")
            await self._acts.shared(gateway, self._key)
        await self._restarted(self._wanted)

    async def _restarted(self, wanted: Wanted) -> None:
        gateway, self._restarting = self._gateway, True
        alone = f"; no standby serves meanwhile: {self._lack}" if self._lack else ""
        await self._progress(RESTART, f"{gateway.unit} finishes its requests and starts with the file{alone}")
        await self._acts.restarted(gateway)
        await self._acts.serves(gateway, wanted, self._key, controlled=self._standby)

    async def _finished(self) -> Ending:
        await self._progress(FINISH, "what was only for the change is taken away")
        note = await self._tidy()
        models = len(self._target.expected)
        text = f"{self._gateway.name} serves {models} models by configuration {short(self._target.digest)}"
        gap = f"; no standby served while it restarted: {self._lack}" if self._lack else ""
        return Ending(Outcome.DONE, f"{text}{gap}{note}")

    # -- the way back -----------------------------------------------------------------------------------------

    async def _back(self, error: AgentdError) -> Ending:
        name, cause = self._gateway.name, error.message
        if self._target.old is None or self._target.old_wanted is None:
            note = "" if await self._standby_alone() else await self._tidy()
            text = f"{name} does not come up with the new configuration, and there is no earlier one: {cause}{note}"
            return Ending(Outcome.DEGRADED, text, ExitCode.DEGRADED, cause)
        try:
            await self._progress(UNDO, f"the file is put back: {cause}")
            await self._gateway.files.write(self._target.old)
            if not await self._still(self._target.old_wanted):
                await self._restarted(self._target.old_wanted)
        except AgentdError as again:
            text = f"{name} does not come up, neither with the new configuration nor with the old one: {again.message}"
            if await self._standby_alone():
                text += f"; {self._gateway.standby_unit} serves meanwhile"
            return Ending(Outcome.DEGRADED, text, ExitCode.DEGRADED, cause)
        note = await self._tidy()
        text = f"{name} serves by the old configuration again; with the new one: {cause}{note}"
        return Ending(Outcome.ROLLED_BACK, text, ExitCode.ROLLED_BACK, cause)

    async def _still(self, wanted: Wanted) -> bool:
        """The main unit was not restarted yet, and serves on by the old file."""
        if self._restarting:
            return False
        return not fault(await self._acts.look(self._gateway.control, self._key), wanted)

    async def _standby_alone(self) -> bool:
        return self._standby and (await self._acts.look(self._gateway.standby, self._key)).shared

    async def _tidy(self) -> str:
        """No standby, no candidate. What does not go is told, and swept later: it harms nobody."""
        try:
            await self._acts.stopped(self._gateway, self._gateway.standby_unit)
            await self._gateway.files.remove_candidate()
        except AgentdError as error:
            log.warning("gateway.not-tidy", extra={"data": {"gateway": self._gateway.name, "error": error.message}})
            return f" ({error.message})"
        return ""
