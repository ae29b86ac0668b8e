"""Mutations: decode, call one operation, encode. Long work answers 202 with the change to follow."""

from __future__ import annotations

import dataclasses
from typing import cast

from aiohttp import web

from agentd.api.context import OPS, reply
from agentd.api.decode import decode
from agentd.api.operations import ServiceVerb
from agentd.api.problems import suggest
from agentd.errors import AgentdError
from agentd.types import Change
from agentd.wire import LeaseRequest, SleepCheckRequest, SwitchRequest, UnloadRequest


async def switch(request: web.Request) -> web.Response:
    wanted = decode(SwitchRequest, await request.read())
    if wanted.automatic:
        wanted = dataclasses.replace(wanted, origin="gateway")
    known = [model.name for model in request.app[OPS].models()]
    if wanted.target not in known:
        raise AgentdError("model-not-found", f'no model "{wanted.target}"', hint=suggest(wanted.target, known))
    if wanted.dry_run:
        return reply({"plan": await request.app[OPS].plan(wanted)})
    return _accepted(*await request.app[OPS].switch(wanted))


async def unload(request: web.Request) -> web.Response:
    return _accepted(*await request.app[OPS].unload(decode(UnloadRequest, await request.read())))


async def sleep_check(request: web.Request) -> web.Response:
    wanted = decode(SleepCheckRequest, await request.read())
    known = [model.name for model in request.app[OPS].models()]
    if wanted.model not in known:
        raise AgentdError("model-not-found", f'no model "{wanted.model}"', hint=suggest(wanted.model, known))
    return _accepted(*await request.app[OPS].sleep_check(wanted))


async def lease(request: web.Request) -> web.Response:
    return _accepted(*await request.app[OPS].lease(decode(LeaseRequest, await request.read())))


async def end_lease(request: web.Request) -> web.Response:
    change = await request.app[OPS].end_lease(request.query.get("slot", ""))
    return reply({"change": None, "joined": False}) if change is None else _accepted(change, joined=False)


async def cancel(request: web.Request) -> web.Response:
    return _accepted(await request.app[OPS].cancel(request.match_info["id"]), joined=False)


async def service_action(request: web.Request) -> web.Response:
    # The route's pattern admits nothing but the verbs.
    name, known = request.match_info["name"], [service.name for service in request.app[OPS].services()]
    if name not in known:
        raise AgentdError("service-not-found", f'no service "{name}"', hint=suggest(name, known))
    verb = cast(ServiceVerb, request.match_info["verb"])
    return reply(await request.app[OPS].service_action(name, verb))


async def reload(request: web.Request) -> web.Response:
    return reply(await request.app[OPS].reload())


def _accepted(change: Change, joined: bool) -> web.Response:
    body = {"change": change, "joined": joined}
    return reply(body, status=202, headers={"Location": f"/v1/changes/{change.id}"})
