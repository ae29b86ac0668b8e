"""The HTTP server: one application behind a unix socket and a loopback TCP port, ours or handed over by systemd."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from socket import AF_UNIX, socket

from aiohttp import web

from agentd import __version__
from agentd.api import access, problems
from agentd.api.context import DESCRIPTION, MAX_BODY, OPS, STREAMS
from agentd.api.openapi import describe
from agentd.api.operations import Operations
from agentd.api.routes import ROUTES, Handler, Route
from agentd.api.sockets import UnixListener, tcp_socket
from agentd.api.sse import Streams
from agentd.errors import AgentdError
from agentd.wire import Json

log = logging.getLogger(__name__)

KEEP_ALIVE = 15.0
SHUTDOWN = 2.0
_PATHS = tuple(route.path for route in ROUTES)
_OURS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": f"agentd/{__version__}"}


def build(ops: Operations, *, owner: int, keep_alive: float = KEEP_ALIVE) -> web.Application:
    """The application: routes with their access, errors as problems."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_guard])
    app[OPS] = ops
    app[DESCRIPTION] = _describe
    app[STREAMS] = Streams(keep_alive)
    for route in ROUTES:
        handler = _bind(route, owner)
        if route.method == "GET":
            app.router.add_get(route.path, handler, allow_head=not route.stream)
        else:
            app.router.add_route(route.method, route.path, handler)
    app.on_response_prepare.append(_our_headers)
    return app


class ApiServer:
    """Doors may come and go while it runs: a reload may move the TCP port."""

    def __init__(self, ops: Operations, *, owner: int | None = None, keep_alive: float = KEEP_ALIVE) -> None:
        uid = access.own_uid() if owner is None else owner
        self._app = build(ops, owner=uid, keep_alive=keep_alive)
        # A handler ends with its client, so that a stream is gone at once; what acts is shielded in `_bind`.
        self._runner = web.AppRunner(
            self._app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE,
            shutdown_timeout=SHUTDOWN,
        )
        self._unix: UnixListener | None = None
        self._tcp: web.SockSite | None = None
        self._listen = ""

    @property
    def tcp_address(self) -> tuple[str, int] | None:
        """Where TCP is served; with port 0 the one that the kernel chose."""
        for address in self._runner.addresses if self._tcp is not None else ():
            if isinstance(address, tuple):
                return address[0], address[1]
        return None

    async def start(self, *, unix: str = "", listen: str = "", sockets: Sequence[socket] = ()) -> None:
        """Serve on systemd's `sockets`; open `unix` and `listen` only for a family that is not among them."""
        await self._runner.setup()
        families = {s.family == AF_UNIX for s in sockets}
        try:
            for sock in sockets:
                await self._serve(sock)
            if unix and True not in families:
                self._unix = UnixListener(unix)
                await self._serve(self._unix.open())
            if listen and False not in families:
                await self.listen(listen)
        except BaseException:
            await self.stop()
            raise

    async def listen(self, address: str) -> None:
        """Serve TCP on `address` ("host:port", loopback; "" for nowhere) from now on; a failure keeps the old port."""
        if address == self._listen and self._tcp is not None:
            return
        old = self._tcp
        self._tcp = await self._serve(tcp_socket(address)) if address else None
        self._listen = address
        if old is not None:
            await old.stop()

    async def stop(self) -> None:
        """Within two seconds: streams end, then what still runs is cut off."""
        self._app[STREAMS].close()
        if self._unix is not None:
            self._unix.remove()
        await self._runner.cleanup()

    async def _serve(self, sock: socket) -> web.SockSite:
        sock.setblocking(False)
        site = web.SockSite(self._runner, sock)
        await site.start()
        return site


def _describe() -> Json:
    return describe(ROUTES, __version__)


def _bind(route: Route, owner: int) -> Handler:
    """The handler behind its access check; what acts runs to its end even when the client hangs up meanwhile."""

    async def handle(request: web.Request) -> web.StreamResponse:
        access.check_access(request, route.access, owner)
        if route.access is not access.Access.OWNER:
            return await route.handler(request)
        action = asyncio.ensure_future(route.handler(request))
        action.add_done_callback(_look_at)
        return await asyncio.shield(action)

    return handle


def _look_at(action: asyncio.Future[web.StreamResponse]) -> None:
    """An action whose client has gone still tells the log when it breaks."""
    if action.cancelled():
        return
    error = action.exception()
    if error is not None and not isinstance(error, AgentdError | web.HTTPException):
        log.error("api.action", exc_info=error)


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        access.check_door(request)
        return await handler(request)
    except AgentdError as error:
        return problems.from_error(error)
    except web.HTTPException as error:
        return problems.from_http(error, request.method, request.path, _PATHS)
    except ConnectionResetError:
        raise
    except Exception as error:
        return problems.internal(error, request.method, request.path)


async def _our_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_OURS)
