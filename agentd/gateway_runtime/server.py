"""uvicorn's server with our sockets: who accepts where, when, and how it drains."""

from __future__ import annotations

import asyncio
import copy
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .ending import Refusal, say
from .flight import Flight
from .notify import Notifier
from .sockets import describe

LAME_DUCK = 1.0
"""Seconds between "no new connections" and the end of idle ones: a client that speaks on a kept-alive connection
meanwhile gets its answer, with `connection: close`."""
LAST_WORDS = 2.0
"""So long before the end of the drain the answers that are still under way are ended with an error."""
BACKLOG = 2048


@dataclass
class Plan:
    """`public`: sockets of the gateway's own address; for a standby without any, `bind` makes one when it is asked to
    accept. `ready` runs after LiteLLM's start-up, before anything is accepted."""

    flight: Flight
    notifier: Notifier
    control: socket.socket | None
    public: list[socket.socket]
    bind: Callable[[], socket.socket]
    standby: bool
    grace: float
    ready: Callable[[], None] = lambda: None
    control_path: tuple[str, int] | None = None
    """Path and inode of the control socket."""
    wanted: bool = False
    """SIGUSR1 came: a standby is to accept."""
    started: bool = False
    why: str = ""
    """Why LiteLLM refused to start."""
    servers: list[Any] = field(default_factory=list)
    """Those of the public sockets."""


def build(plan: Plan, config: Any, control_app: Any) -> Any:
    """A uvicorn.Server. `config.app` answers on the public sockets, `control_app` on the control socket."""
    import uvicorn

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, **_: object) -> None:
            await super().startup(sockets=[])
            if self.should_exit:
                return
            plan.ready()
            if plan.control is not None:
                own = copy.copy(config)
                own.loaded_app = control_app
                self.servers.append(await _accept(self, own, plan.control))
            if plan.standby:
                plan.notifier.ready("standby: accepts after SIGUSR1")
                say("standby: accepts on its control socket only, until SIGUSR1")
            else:
                await self._share()
                plan.notifier.ready(f"accepts on {_names(plan.public)}")
            plan.started = True

        async def _share(self) -> None:
            """Accept on the public sockets. Raises Refusal."""
            plan.public = plan.public or [plan.bind()]
            for one in plan.public:
                plan.servers.append(await _accept(self, config, one))
            self.servers.extend(plan.servers)
            plan.flight.shared = True
            say(f"accepts on {_names(plan.public)}")

        async def on_tick(self, counter: int) -> bool:
            if plan.standby and plan.wanted and not plan.flight.shared:
                plan.wanted = False
                try:
                    await self._share()
                    plan.notifier.status(f"standby: accepts on {_names(plan.public)}")
                except Refusal as error:  # it stays a standby, and the other process goes on serving
                    say(f"cannot accept: {error}")
                    plan.notifier.status(f"standby: cannot accept: {error}")
            return bool(await super().on_tick(counter))

        async def shutdown(self, **_: object) -> None:
            flight = plan.flight
            flight.drain(max(plan.grace - LAST_WORDS, 0.0))
            for server in plan.servers:
                server.close()
            flight.shared = False
            plan.notifier.stopping(f"finishes {flight.requests} requests")
            say(f"drains: {flight.requests} requests in flight, at most {plan.grace:g} s")
            await self._lame_duck()
            await super().shutdown(sockets=[])

        async def _lame_duck(self) -> None:
            loop = asyncio.get_running_loop()
            end = loop.time() + min(LAME_DUCK, plan.grace)
            # uvicorn keeps a set of connections, and no event that says when it is empty.
            while self.server_state.connections and loop.time() < end and not self.force_exit:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    return Server(config)


async def _accept(server: Any, config: Any, one: socket.socket) -> Any:
    """Connections of the socket are served with `config`. Raises Refusal."""
    loop = asyncio.get_running_loop()

    def protocol() -> Any:
        return config.http_protocol_class(
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )

    try:
        if one.family == socket.AF_UNIX:
            return await loop.create_unix_server(protocol, sock=one, backlog=BACKLOG)
        return await loop.create_server(protocol, sock=one, ssl=config.ssl, backlog=BACKLOG)
    except OSError as error:
        raise Refusal(f"cannot listen on {describe(one)}: {error.strerror or error}") from None


def _names(public: Sequence[socket.socket]) -> str:
    return ", ".join(describe(one) for one in public)


def catch_signals(plan: Plan) -> None:
    """From the start on: a SIGUSR1 must not end a standby that is still importing, and whoever stops us before we serve
    has stopped nothing that anyone waits for. uvicorn puts its own handlers in place while it serves, and raises the
    signal again afterwards: for these handlers, so that a drained process ends with status 0."""

    def wanted(*_: object) -> None:
        plan.wanted = True

    def stopped(*_: object) -> None:
        if not plan.flight.draining:
            say("stopped before it was ready")
            raise SystemExit(0)

    signal.signal(signal.SIGUSR1, wanted)
    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGINT, stopped)
