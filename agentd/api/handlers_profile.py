"""The profile of use over HTTP: for the owner."""

from __future__ import annotations

from aiohttp import web

from agentd.api.context import OPS, reply
from agentd.api.decode import decode
from agentd.core.use_plan import ProfileRequest


async def use(request: web.Request) -> web.Response:
    """With `dry_run` 200 and `plan`."""
    wanted = decode(ProfileRequest, await request.read())
    if wanted.dry_run:
        return reply({"plan": await request.app[OPS].profiles.plan(wanted)})
    change = await request.app[OPS].profiles.use(wanted)
    location = {"Location": f"/v1/changes/{change.id}"}
    return reply({"change": change, "joined": False}, status=202, headers=location)
