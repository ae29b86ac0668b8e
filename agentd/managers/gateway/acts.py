"""What is done to the gateway's units, each with its deadline, and a sentence about what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from agentd.core.explain import CLD_DUMPED, CLD_KILLED, explain
from agentd.core.redact import redact
from agentd.errors import AgentdError
from agentd.managers.gateway.context import Gateway, GatewayPorts
from agentd.managers.gateway.judge import RUNTIME, Wanted, fault, own_words, unloadable
from agentd.ports_gateway import Endpoint, ProxyState
from agentd.types import ActiveState, JobResult, UnitState

LOOK_SECONDS = 5.0
"""For one look at a proxy: a LiteLLM that has just started is slow."""
MARGIN = 15.0
"""Seconds for a job beyond what was planned for it."""
SHARE_SECONDS = 15.0
SIGUSR1 = 10
PASSED = (JobResult.DONE, JobResult.LOST)
"""LOST says nothing: the look that follows does."""
FIRST, MOST, GROWTH = 0.05, 1.0, 1.5
LINES = 40
LAST = 3
"""Of them, one of which is our runtime's when all has come."""
JOURNAL_TRIES = 5


class Acts:
    def __init__(self, ports: GatewayPorts) -> None:
        self._ports = ports

    async def show(self, unit: str) -> UnitState:
        return await self._ports.control.show(unit)

    async def blue_green(self, gateway: Gateway) -> bool:
        """Its socket is held by systemd, and there is a standby that can accept on it."""
        return gateway.policy.apply == "blue-green" and not await self.lack(gateway)

    async def lack(self, gateway: Gateway) -> str:
        """Why no standby can take over; "" when one can."""
        socket, standby = await self.show(gateway.socket_unit), await self.show(gateway.standby_unit)
        for state in (socket, standby):
            if wrong := unloadable(state):
                return wrong
        return "" if socket.active_state is ActiveState.ACTIVE else f"{socket.name} is {socket.active_state.value}"

    async def loaded(self, gateway: Gateway) -> None:
        """The main unit is one that systemd can start: told before anything that serves is touched. Raises
        AgentdError("gateway-unit")."""
        state = await self.show(gateway.unit)
        if wrong := unloadable(state):
            doing = "unmask it" if state.load_state == "masked" else "put its unit file in place"
            hint = f"{doing}; what serves now is untouched"
            raise AgentdError("gateway-unit", f"cannot use a new configuration: {wrong}", hint=hint)

    async def look(self, endpoint: Endpoint, key: str, *, keyless: bool = False) -> ProxyState:
        return await self._ports.proxy.look(endpoint, key, timeout=LOOK_SECONDS, keyless=keyless)

    # -- units ------------------------------------------------------------------------------------------------

    async def restarted(self, gateway: Gateway) -> None:
        """The main unit, started anew; its job is done when this returns. Raises AgentdError("gateway-start")."""
        policy = gateway.policy
        await self._forget_failures(gateway.unit)
        await self._socket_up(gateway)
        limit = policy.start_timeout + policy.drain_timeout + MARGIN
        result = await (await self._ports.control.restart(gateway.unit)).wait(limit)
        if result not in PASSED and await self._was_killed(gateway.unit):
            result = await (await self._ports.control.restart(gateway.unit)).wait(limit)
        await self._done(gateway.unit, result)

    async def started(self, gateway: Gateway, unit: str) -> None:
        await self._forget_failures(unit)
        job = await self._ports.control.start(unit)
        await self._done(unit, await job.wait(gateway.policy.start_timeout + MARGIN))

    async def stopped(self, gateway: Gateway, unit: str) -> None:
        """When it was up. Raises AgentdError for one that does not stop."""
        if not (await self.show(unit)).active_state.up:
            return
        job = await self._ports.control.stop(unit)
        result = await job.wait(gateway.policy.drain_timeout + MARGIN)
        if result not in PASSED:
            raise AgentdError("gateway-stop", f"cannot stop {unit}: the job ended with {result.value}")

    async def explained(self, unit: str) -> str:
        """Why it is not up, with its last words; journald may be some tenths of a second behind."""
        state = await self.show(unit)
        lines: tuple[str, ...] = ()
        for _ in range(JOURNAL_TRIES):
            lines = await self._ports.journal.tail(
                unit, lines=LINES, invocation=state.invocation_id, pid=state.exec_pid
            )
            if any(line.startswith(RUNTIME) for line in lines[-LAST:]):
                break
            await self._ports.clock.sleep(0.1)
        return redact(explain(state, own_words(lines)))

    # -- proxies ----------------------------------------------------------------------------------------------

    async def ready(
        self, gateway: Gateway, endpoint: Endpoint, unit: str, wanted: Wanted, key: str, *, timeout: float = 0.0
    ) -> ProxyState:
        """Once it is as wanted. Raises AgentdError("gateway-not-ready") with what is wrong, at the deadline or when its
        unit has failed."""
        limit = timeout or gateway.policy.start_timeout
        pause, wrong = FIRST, "it was not looked at"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while True:
                    state = await self.look(endpoint, key)
                    wrong = fault(state, wanted)
                    if not wrong:
                        state = await self.look(endpoint, key, keyless=True)
                        wrong = fault(state, wanted)
                    if not wrong:
                        return state
                    if (await self.show(unit)).active_state is ActiveState.FAILED:
                        raise AgentdError("gateway-start", await self.explained(unit))
                    await self._ports.clock.sleep(pause)
                    pause = min(MOST, pause * GROWTH)
        raise AgentdError("gateway-not-ready", f"{unit} is not ready after {limit:g} s: {wrong}")

    async def serves(self, gateway: Gateway, wanted: Wanted, key: str, *, controlled: bool) -> None:
        """The main unit's process itself, not whoever else accepts on the port. `controlled`: it must have its control
        socket; without, one that does not say what it runs is believed."""
        if controlled:
            await self.ready(gateway, gateway.control, gateway.unit, wanted, key)
            return
        await self.ready(gateway, gateway.public, gateway.unit, replace(wanted, digest=""), key)
        state = await self.look(gateway.control, key)
        if state.alive and (wrong := fault(state, wanted)):
            raise AgentdError("gateway-not-ready", f"{gateway.unit} is not ready: {wrong}")

    async def shared(self, gateway: Gateway, key: str) -> None:
        """The standby accepts on the gateway's own socket. Raises AgentdError("gateway-share")."""
        unit, pause = gateway.standby_unit, FIRST
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHARE_SECONDS):
                state = await self.look(gateway.standby, key)
                if not state.shared:
                    await self._ports.control.kill(unit, SIGUSR1)
                while not state.shared:
                    if not (await self.show(unit)).active_state.up:
                        raise AgentdError("gateway-share", await self.explained(unit))
                    await self._ports.clock.sleep(pause)
                    pause = min(MOST, pause * GROWTH)
                    state = await self.look(gateway.standby, key)
                return
        raise AgentdError("gateway-share", f"{unit} does not take over within {SHARE_SECONDS:g} s")

    # -- inside -----------------------------------------------------------------------------------------------

    async def _done(self, unit: str, result: JobResult) -> None:
        if result not in PASSED:
            raise AgentdError("gateway-start", await self.explained(unit))

    async def _was_killed(self, unit: str) -> bool:
        """By somebody: that says nothing of its configuration."""
        state = await self.show(unit)
        return state.exec_code in (CLD_KILLED, CLD_DUMPED) and state.result in ("signal", "oom-kill", "core-dump")

    async def _forget_failures(self, unit: str) -> None:
        """Also its start limit, which our own restarts count against."""
        with contextlib.suppress(AgentdError):
            await self._ports.control.reset_failed(unit)

    async def _socket_up(self, gateway: Gateway) -> None:
        """systemd gives a socket up whose service could not be started; requests that wait need it."""
        if (await self.show(gateway.socket_unit)).active_state is not ActiveState.FAILED:
            return
        with contextlib.suppress(AgentdError):
            if await self._socket_started(gateway.socket_unit):
                return
            # A standby still holds the old socket, so the port is taken. It is that or nobody ever again.
            await self.stopped(gateway, gateway.standby_unit)
            await self._socket_started(gateway.socket_unit)

    async def _socket_started(self, unit: str) -> bool:
        await self._ports.control.reset_failed(unit)
        return await (await self._ports.control.start(unit)).wait(MARGIN) is JobResult.DONE
