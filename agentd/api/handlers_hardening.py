"""Hardening over HTTP: the snapshot for everybody, the disk for the owner, and what acts."""

from __future__ import annotations

from aiohttp import web

from agentd.api.context import OPS, reply
from agentd.api.decode import decode, flag
from agentd.errors import AgentdError
from agentd.wire import DropinsRequest, RollbackRequest, UnitRequest


async def summaries(request: web.Request) -> web.Response:
    return reply({"units": request.app[OPS].hardening.reports()})


async def plan(request: web.Request) -> web.Response:
    hardening, query = request.app[OPS].hardening, request.query
    return reply(await hardening.plan(query.get("unit", ""), force=flag(query.get("force"))))


async def texts(request: web.Request) -> web.Response:
    found = request.app[OPS].hardening.texts(request.query.get("unit", ""))
    return reply({"files": [{"path": path, "text": text} for path, text in found]})


async def sets(request: web.Request) -> web.Response:
    return reply({"sets": await request.app[OPS].hardening.sets()})


async def apply(request: web.Request) -> web.Response:
    change = await request.app[OPS].hardening.apply(decode(DropinsRequest, await request.read()))
    return reply({"change": change, "joined": False}, status=202, headers={"Location": f"/v1/changes/{change.id}"})


async def rollback(request: web.Request) -> web.Response:
    change = await request.app[OPS].hardening.rollback(decode(RollbackRequest, await request.read()))
    return reply({"change": change, "joined": False}, status=202, headers={"Location": f"/v1/changes/{change.id}"})


async def adopt(request: web.Request) -> web.Response:
    return reply({"done": await request.app[OPS].hardening.adopt(decode(UnitRequest, await request.read()).unit)})


async def verify(request: web.Request) -> web.Response:
    unit = decode(UnitRequest, await request.read()).unit
    return reply({"findings": await request.app[OPS].hardening.verify(unit)})


async def prove(request: web.Request) -> web.Response:
    unit = decode(UnitRequest, await request.read()).unit
    if not unit:
        raise AgentdError("bad-request", 'cannot read the request: "unit" is missing')
    return reply({"findings": await request.app[OPS].hardening.prove(unit)})
