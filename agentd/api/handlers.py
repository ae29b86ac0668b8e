"""Reads: decode, look at the last snapshot, encode. None of them waits for the outside world."""

from __future__ import annotations

import time
from collections.abc import Sequence

from aiohttp import web

from agentd.api import decode, sse
from agentd.api.context import DESCRIPTION, LIMITS, OPS, STREAMS, reply
from agentd.api.operations import Check, ModelDetail, Operations
from agentd.api.problems import suggest
from agentd.errors import AgentdError
from agentd.wire import Json


async def livez(request: web.Request) -> web.Response:
    return _checks(request, "livez", request.app[OPS].live())


async def readyz(request: web.Request) -> web.Response:
    return _checks(request, "readyz", request.app[OPS].ready())


async def metrics(request: web.Request) -> web.Response:
    content_type, body = request.app[OPS].metrics(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def status(request: web.Request) -> web.Response:
    return reply(status_body(request.app[OPS]))


async def services(request: web.Request) -> web.Response:
    return reply({"services": request.app[OPS].services()})


async def service(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    known = request.app[OPS].services()
    for found in known:
        if found.name == name:
            return reply(found)
    raise AgentdError("service-not-found", f'no service "{name}"', hint=suggest(name, [s.name for s in known]))


async def models(request: web.Request) -> web.Response:
    return reply({"models": request.app[OPS].models()})


async def model(request: web.Request) -> web.Response:
    name, ops = request.match_info["name"], request.app[OPS]
    known = ops.models()
    for found in known:
        if found.name == name:
            return reply(ModelDetail(found, ops.facts_of(name)))
    raise AgentdError("model-not-found", f'no model "{name}"', hint=suggest(name, [m.name for m in known]))


async def slots(request: web.Request) -> web.Response:
    return reply({"slots": request.app[OPS].slots()})


async def runtimes(request: web.Request) -> web.Response:
    return reply({"runtimes": request.app[OPS].runtimes()})


async def gpus(request: web.Request) -> web.Response:
    return reply(request.app[OPS].gpus())


async def findings(request: web.Request) -> web.Response:
    return reply({"findings": request.app[OPS].findings()})


async def config(request: web.Request) -> web.Response:
    return reply(request.app[OPS].config())


async def changes(request: web.Request) -> web.Response:
    limit = decode.number(request.query.get("limit"), "limit", default=20, most=LIMITS["changes"])
    return reply({"changes": await request.app[OPS].changes(limit)})


async def change(request: web.Request) -> web.Response:
    found = await request.app[OPS].change(request.match_info["id"])
    if found is None:
        raise no_change(request)
    return reply(found)


async def change_events(request: web.Request) -> web.StreamResponse:
    ops, change_id = request.app[OPS], request.match_info["id"]
    if await ops.change(change_id) is None:
        raise no_change(request)
    return await request.app[STREAMS].serve(request, sse.change_frames(ops, change_id))


async def events(request: web.Request) -> web.StreamResponse:
    ops, query = request.app[OPS], request.query
    limit = decode.number(query.get("limit"), "limit", default=50, most=LIMITS["events"])
    # A browser's EventSource that reconnects says where it was.
    after_text = request.headers.get("Last-Event-ID") or query.get("after")
    after = decode.number(after_text, "after", default=0, most=2**53)
    if decode.flag(query.get("follow")):
        return await request.app[STREAMS].serve(request, sse.event_frames(ops, limit, after))
    return reply({"events": ops.events(limit, after) if limit else ()})


async def openapi(request: web.Request) -> web.Response:
    return reply(request.app[DESCRIPTION]())


def status_body(ops: Operations) -> Json:
    """Everything that `agentctl status` and the page show, in one answer."""
    checks = ops.ready()
    return {
        "daemon": ops.daemon(),
        "time": time.time(),
        "ready": all(c.ok for c in checks),
        "checks": checks,
        "config": ops.config_status(),
        "bus": ops.bus_status(),
        "ages": ops.ages(),
        "slots": ops.slots(),
        "models": ops.models(),
        "services": ops.services(),
        "gpus": ops.gpus(),
        "gpu_findings": ops.gpu_findings(),
        "runtimes": ops.runtimes(),
        "hardening": ops.hardening.reports(),
        "stores": ops.redis.stores(),
        "gateway": ops.gateway.status(),
    }


def no_change(request: web.Request) -> AgentdError:
    return AgentdError(
        "change-not-found", f'no change "{request.match_info["id"]}"', hint="see: agentctl switch status"
    )


def _checks(request: web.Request, name: str, checks: Sequence[Check]) -> web.Response:
    """Kubernetes' form: "ok", or one line per check when asked or when one fails."""
    failed = [c for c in checks if not c.ok]
    lines = [f"[{'+' if c.ok else '-'}]{c.name} {'ok' if c.ok else 'failed'}{_because(c)}" for c in checks]
    verdict = f"{name} check {'failed' if failed else 'passed'}"
    if not failed and not ("verbose" in request.query and decode.flag(request.query["verbose"] or "1")):
        return web.Response(text="ok\n")
    return web.Response(status=503 if failed else 200, text="\n".join([*lines, verdict]) + "\n")


def _because(check: Check) -> str:
    return f": {check.detail}" if check.detail else ""
