"""One look at the gateway: its file, what the sources would make of it, its units, and the process that answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from agentd.core.explain import CONFIG_ERROR, refused_its_config
from agentd.errors import AgentdError
from agentd.managers.gateway.context import FileText, Gateway, GatewayPorts, Plan
from agentd.managers.gateway.judge import Wanted, fault
from agentd.ports import PortHolder
from agentd.ports_gateway import ProxyState
from agentd.types import ActiveState, UnitState

PLAN_SECONDS = 300.0
"""For so long a plan is believed whose files nobody touched: listening ports may have changed."""
OPEN_SECONDS = 300.0
REFUSED = 401
LOOK_SECONDS = 5.0
LOG_LINES = 400
LAST_LINES = 40
COMPLAINTS = ("Ignoring this key", "Error creating deployment")
"""What LiteLLM says of a configuration that it takes all the same, and where it does not do what it says."""


@dataclass(frozen=True, slots=True)
class GatewayView:
    """A proxy that was not asked is a ProxyState that is not alive."""

    at: float
    unit: UnitState
    socket: UnitState
    standby: UnitState
    public: ProxyState
    main: ProxyState
    file: FileText | None = None
    file_problem: str = ""
    plan: Plan | None = None
    plan_problem: str = ""
    has_key: bool = False
    holder: PortHolder | None = None
    """A stranger on the gateway's port."""
    last_lines: tuple[str, ...] = field(default=(), repr=False)
    """Of the journal, after a configuration error."""
    complaints: tuple[str, ...] = ()

    @property
    def wanted(self) -> Wanted:
        section = self.file.section if self.file is not None else None
        return Wanted("", section.expected if section is not None else None, self.has_key)

    @property
    def fault(self) -> str:
        return fault(self.public, self.wanted)

    @property
    def config_error(self) -> bool:
        state = self.unit
        failed = state.active_state is ActiveState.FAILED or state.sub_state == "auto-restart"
        return failed and refused_its_config(state)


class Looker:
    """Remembers what it costs to find out, for as long as it stays true."""

    def __init__(self, ports: GatewayPorts, gateway: Gateway) -> None:
        self._ports = ports
        self._gateway = gateway
        self._plan: tuple[Plan | None, str, float] | None = None
        self._file: tuple[str, FileText | None, str] = ("", None, "")
        self._complaints: tuple[str, tuple[str, ...]] = ("", ())
        self._open: tuple[int, float] | None = None
        """What it answers without a key, and when it was asked."""
        self._process = 0

    def forget(self) -> None:
        """A source, the file or the configuration may be another one now."""
        self._plan = None

    async def file(self) -> tuple[FileText | None, str]:
        """The generated file, or why it cannot be read."""
        try:
            text = await self._gateway.files.generated()
            if text is None:
                return None, ""
            if text != self._file[0]:
                self._file = (text, await self._ports.aside(lambda: self._ports.read(text)), "")
        except AgentdError as error:
            return None, error.message
        return self._file[1], self._file[2]

    async def key(self, file: FileText | None) -> str:
        """Read anew each time; kept nowhere. Raises AgentdError."""
        return self._gateway.key(await self._gateway.files.environment(), file.section if file is not None else None)

    async def public(self, *, timeout: float = LOOK_SECONDS) -> tuple[ProxyState, Wanted]:
        """The proxy as clients see it, and what it has to be by its file. Raises AgentdError."""
        file, problem = await self.file()
        if problem:
            raise AgentdError("gateway-file", problem)
        key = await self.key(file)
        state = await self._public(key, timeout)
        section = file.section if file is not None else None
        return state, Wanted("", section.expected if section is not None else None, bool(key))

    async def look(self) -> GatewayView:
        """Raises AgentdError when systemd cannot be asked."""
        ports, gateway = self._ports, self._gateway
        show = ports.control.show
        unit, socket, standby = await asyncio.gather(
            show(gateway.unit), show(gateway.socket_unit), show(gateway.standby_unit)
        )
        file, file_problem = await self.file()
        key, key_problem = await self._key_or_why(file)
        plan, plan_problem = await self._planned()
        public, main = await self._proxies(unit, standby, key)
        return GatewayView(
            ports.clock.time(),
            unit,
            socket,
            standby,
            public,
            main,
            file,
            file_problem or key_problem,
            plan,
            plan_problem,
            bool(key),
            self._stranger(unit, socket),
            await self._last_lines(unit),
            await self._complained(unit, public),
        )

    # -- inside -----------------------------------------------------------------------------------------------

    async def _proxies(self, unit: UnitState, standby: UnitState, key: str) -> tuple[ProxyState, ProxyState]:
        if not unit.active_state.up and not standby.active_state.up:
            away = ProxyState(False, error=f"{self._gateway.unit} is {unit.active_state.value}")
            return away, away
        if unit.main_pid != self._process:
            self._process, self._open = unit.main_pid, None
        proxy, control = self._ports.proxy, self._gateway.control
        public, main = await asyncio.gather(
            self._public(key, LOOK_SECONDS), proxy.look(control, "", timeout=LOOK_SECONDS, keyless=False)
        )
        if main.alive and unit.main_pid and main.pid not in (0, unit.main_pid):
            main = ProxyState(False, error="another process answers on its control socket")
        return public, main

    async def _public(self, key: str, timeout: float) -> ProxyState:
        """What is refused without a key now will be in a minute: asked of each process, and then seldom."""
        now, known = self._ports.clock.monotonic(), self._open
        due = known is None or known[0] != REFUSED or now - known[1] >= OPEN_SECONDS
        state = await self._ports.proxy.look(self._gateway.public, key, timeout=timeout, keyless=due)
        if not state.alive:
            self._open = None
        elif due:
            self._open = (state.open_status, now)
        elif known is not None:
            state = replace(state, open_status=known[0])
        return state

    async def _key_or_why(self, file: FileText | None) -> tuple[str, str]:
        try:
            return await self.key(file), ""
        except AgentdError as error:
            return "", error.message

    async def _planned(self) -> tuple[Plan | None, str]:
        now = self._ports.clock.monotonic()
        if self._plan is None or now - self._plan[2] >= PLAN_SECONDS:
            try:
                self._plan = (await self._gateway.planner.plan(), "", now)
            except AgentdError as error:
                self._plan = (None, error.message, now)
        return self._plan[0], self._plan[1]

    def _stranger(self, unit: UnitState, socket: UnitState) -> PortHolder | None:
        """Nobody can take a port that systemd itself holds."""
        if socket.active_state is ActiveState.ACTIVE:
            return None
        holder = self._ports.kernel.port_holder(self._gateway.port)
        if holder is None or holder.unit in (self._gateway.unit, self._gateway.standby_unit):
            return None
        if holder.pid == 0 and unit.active_state.up:
            return None
        return holder

    async def _last_lines(self, unit: UnitState) -> tuple[str, ...]:
        if unit.exec_status != CONFIG_ERROR or unit.active_state is ActiveState.ACTIVE:
            return ()
        return await self._ports.journal.tail(
            unit.name, lines=LAST_LINES, invocation=unit.invocation_id, pid=unit.exec_pid
        )

    async def _complained(self, unit: UnitState, public: ProxyState) -> tuple[str, ...]:
        """Once for each start, when it has said all that it says of its configuration."""
        if not public.alive or not unit.invocation_id:
            return ()
        if self._complaints[0] != unit.invocation_id:
            lines = await self._ports.journal.tail(
                unit.name, lines=LOG_LINES, invocation=unit.invocation_id, pid=unit.main_pid
            )
            found = tuple(dict.fromkeys(line for line in lines if any(c in line for c in COMPLAINTS)))
            self._complaints = (unit.invocation_id, found)
        return self._complaints[1]
