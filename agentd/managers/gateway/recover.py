"""After an apply that was cut off: reality first. It ends with one gateway that serves by its file, the new one or the
old one, without a standby and without a candidate. What serves is never restarted for it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from agentd.errors import AgentdError
from agentd.managers.gateway.acts import FIRST, GROWTH, MOST, Acts
from agentd.managers.gateway.context import FileText, Gateway, GatewayPorts
from agentd.managers.gateway.judge import Wanted, short
from agentd.ports_gateway import ProxyState, Version
from agentd.types import ActiveState

log = logging.getLogger(__name__)

MOVING = (ActiveState.ACTIVATING, ActiveState.DEACTIVATING, ActiveState.RELOADING)
ROUNDS = 3


class Recovery:
    def __init__(self, ports: GatewayPorts, gateway: Gateway) -> None:
        self._ports = ports
        self._gateway = gateway
        self._acts = Acts(ports)
        self._environment: dict[str, str] = {}

    async def settle(self) -> str:
        """What was found and done, in one sentence. Raises AgentdError when nothing could be brought to serve; then a
        standby that serves is left alone."""
        gateway = self._gateway
        self._environment = dict(await gateway.files.environment())
        told = ""
        for _ in range(ROUNDS):
            file = await self._file()
            if file is None or file.section is None:
                return await self._tidied("the file of the gateway is none of ours, so it is left alone")
            await self._cover(file)
            main = await self._settled()
            if main.alive and (not main.digest or main.digest == file.digest):
                return await self._tidied(told or f"it serves by configuration {short(file.digest)}")
            # Whoever starts it meanwhile may have read the other one: so it is looked at again.
            told = await self._put_back(main.digest) if main.alive else ""
            if not told:
                return await self._tidied(await self._started(file))
        raise AgentdError("gateway-not-ready", f"{gateway.unit} does not come to rest")

    async def swept(self) -> str:
        """For what nobody cut off: a standby or a candidate that was left over while the main unit serves. What was
        done, "" when there was nothing."""
        if not await self._standby_up():
            await self._gateway.files.remove_candidate()
            return ""
        file, main = await self._file(), await self._main()
        if file is None or not main.alive or (main.digest and main.digest != file.digest):
            return ""
        return await self._tidied(f"{self._gateway.standby_unit} was left over and is stopped")

    # -- looking ----------------------------------------------------------------------------------------------

    async def _file(self) -> FileText | None:
        text = await self._gateway.files.generated()
        return await self._ports.aside(lambda: self._ports.read(text)) if text is not None else None

    async def _main(self) -> ProxyState:
        """The main unit's process; by the port where it has no control socket."""
        gateway = self._gateway
        state = await self._acts.look(gateway.control, "")
        unit = await self._acts.show(gateway.unit)
        if state.alive and unit.main_pid and state.pid not in (0, unit.main_pid):
            return ProxyState(False, error="another process answers on its control socket")
        if state.alive or await self._standby_up() or not unit.active_state.up:
            return state
        return await self._acts.look(gateway.public, "")

    async def _settled(self) -> ProxyState:
        """systemd may be at work on it, by itself or for whoever was cut off: no verdict before that ends."""
        pause, state = FIRST, ProxyState(False)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._gateway.policy.start_timeout):
                while True:
                    moving = await self._moving()  # First: what is at rest now does not move on by itself.
                    state, unit = await self._main(), await self._acts.show(self._gateway.unit)
                    runs = unit.active_state is ActiveState.ACTIVE and bool(unit.main_pid)
                    if not moving and (state.alive or not runs):
                        break
                    await self._ports.clock.sleep(pause)
                    pause = min(MOST, pause * GROWTH)
        return state

    async def _moving(self) -> bool:
        unit = self._gateway.unit
        brief = (await self._ports.control.list([unit])).get(unit)
        return brief is not None and (brief.active_state in MOVING or bool(brief.job))

    async def _standby_up(self) -> bool:
        return (await self._acts.show(self._gateway.standby_unit)).active_state.up

    # -- doing ------------------------------------------------------------------------------------------------

    async def _cover(self, file: FileText) -> None:
        """A standby that is ready serves while the rest is put in order, when the main one does not."""
        gateway = self._gateway
        if not await self._standby_up() or (await self._main()).alive:
            return
        key = gateway.key(self._environment, file.section)
        if (await self._acts.look(gateway.standby, key)).alive:
            with suppress(AgentdError):
                await self._acts.shared(gateway, key)

    async def _put_back(self, digest: str) -> str:
        """The file that the running process read; "" when it is not kept any more."""
        version = next((v for v in await self._versions() if v.digest == digest), None)
        if version is None:
            return ""
        await self._gateway.files.write(await self._gateway.files.version_text(version.id))
        return f"the file is put back to configuration {short(digest)}, by which it serves"

    async def _started(self, file: FileText) -> str:
        """By the file as it is, else by the one before. Raises AgentdError."""
        try:
            await self._restarted(file)
            return f"it was started with configuration {short(file.digest)}"
        except AgentdError as error:
            first = error
        for version in await self._versions():
            if version.digest != file.digest:
                await self._gateway.files.write(await self._gateway.files.version_text(version.id))
                before = await self._file()
                if before is None:
                    break
                await self._restarted(before)
                return f"it was started with the configuration before, {short(before.digest)}: {first.message}"
        raise first

    async def _restarted(self, file: FileText) -> None:
        gateway, section = self._gateway, file.section
        key = gateway.key(self._environment, section)
        wanted = Wanted(file.digest, section.expected if section is not None else None, bool(key))
        controlled = await self._acts.blue_green(gateway)
        await self._acts.restarted(gateway)
        await self._acts.serves(gateway, wanted, key, controlled=controlled)

    async def _versions(self) -> tuple[Version, ...]:
        return tuple(await self._gateway.files.versions())

    async def _tidied(self, text: str) -> str:
        await self._acts.stopped(self._gateway, self._gateway.standby_unit)
        await self._gateway.files.remove_candidate()
        return text
