"""The gateway over HTTP: the snapshot for everybody, what asks it or acts on it for the owner."""

from __future__ import annotations

from aiohttp import web

from agentd.api.context import OPS, reply
from agentd.api.decode import decode
from agentd.errors import AgentdError
from agentd.types import Change
from agentd.wire import GatewayRequest


async def gateway(request: web.Request) -> web.Response:
    """`null` when none is configured."""
    return reply({"gateway": request.app[OPS].gateway.status()})


async def verify(request: web.Request) -> web.Response:
    return reply({"gateway": await request.app[OPS].gateway.verify()})


async def apply(request: web.Request) -> web.Response:
    wanted = decode(GatewayRequest, await request.read())
    _without(wanted, "version", "apply")
    if wanted.dry_run:
        return reply({"plan": await request.app[OPS].gateway.plan(wanted)})
    return _accepted(await request.app[OPS].gateway.apply(wanted))


async def rollback(request: web.Request) -> web.Response:
    wanted = decode(GatewayRequest, await request.read())
    for name in ("dry_run", "force"):
        _without(wanted, name, "rollback")
    return _accepted(await request.app[OPS].gateway.rollback(wanted))


async def restart(request: web.Request) -> web.Response:
    wanted = decode(GatewayRequest, await request.read())
    for name in ("dry_run", "force", "version"):
        _without(wanted, name, "restart")
    return _accepted(await request.app[OPS].gateway.restart())


def _without(wanted: GatewayRequest, name: str, verb: str) -> None:
    """Whoever asks for a dry run must not get a wet one."""
    if getattr(wanted, name):
        raise AgentdError("bad-request", f'cannot read the request: "{name}" is not for /v1/gateway/{verb}')


def _accepted(change: Change) -> web.Response:
    return reply({"change": change, "joined": False}, status=202, headers={"Location": f"/v1/changes/{change.id}"})
