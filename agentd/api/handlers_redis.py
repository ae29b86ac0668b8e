"""Stores over HTTP: the snapshot for everybody, what asks the servers or acts on them for the owner."""

from __future__ import annotations

from aiohttp import web

from agentd.api.context import OPS, reply
from agentd.api.decode import decode
from agentd.errors import AgentdError
from agentd.types import Change
from agentd.wire import BackupRequest, StoreRequest


async def stores(request: web.Request) -> web.Response:
    return reply({"stores": request.app[OPS].redis.stores()})


async def verify(request: web.Request) -> web.Response:
    store = _plain(decode(StoreRequest, await request.read())).store
    return reply({"stores": await request.app[OPS].redis.verify(store)})


async def enforce(request: web.Request) -> web.Response:
    wanted = decode(StoreRequest, await request.read())
    if wanted.dry_run:
        return reply({"plans": await request.app[OPS].redis.plan(wanted.store)})
    return _accepted(await request.app[OPS].redis.enforce(wanted))


async def drill(request: web.Request) -> web.Response:
    return _accepted(await request.app[OPS].redis.drill(_plain(decode(StoreRequest, await request.read()))))


async def backup(request: web.Request) -> web.Response:
    wanted = decode(BackupRequest, await request.read())
    if wanted.to and (not wanted.to.startswith("/") or "\0" in wanted.to):
        message = f'cannot read the request: "to" must be an absolute path, it is {wanted.to[:200]!r}'
        raise AgentdError("bad-request", message)
    return _accepted(await request.app[OPS].redis.backup(wanted))


def _plain(wanted: StoreRequest) -> StoreRequest:
    """Whoever asks for a dry run must not get a wet one."""
    for name in ("dry_run", "accept_loss"):
        if getattr(wanted, name):
            raise AgentdError("bad-request", f'cannot read the request: "{name}" is only for /v1/redis/enforce')
    return wanted


def _accepted(change: Change) -> web.Response:
    return reply({"change": change, "joined": False}, status=202, headers={"Location": f"/v1/changes/{change.id}"})
