"""agentctl gateway rollback: an earlier generated file again; with --apply as a change of agentd's."""

from __future__ import annotations

import time
from typing import Any

from agentd.cli import exits, gateway_text
from agentd.cli.context import Context
from agentd.cli.follow import accepted
from agentd.cli.parser import UsageError
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    args = ctx.args
    if args.apply:
        if args.list:
            raise UsageError("--apply and --list contradict each other")
        return accepted(ctx, ctx.client.post("/v1/gateway/rollback", {"version": args.version or ""}))
    from agentd import offline, offline_gateway

    settings = offline.config(args.config).settings
    if args.list:
        return _list(ctx, offline_gateway.versions(settings))
    found = offline_gateway.rollback(settings, args.version or "")
    kept = offline_gateway.restore(settings, found)
    if ctx.json:
        ctx.print_json(
            {"version": found.version.id, "written": not found.up_to_date, "kept": kept.id if kept else "",
             "diff": found.delta, "changes": list(found.words)}
        )  # fmt: skip
        return exits.OK
    gateway_text.changes(ctx.out, found.delta, found.words)
    if found.up_to_date:
        ctx.out.line(clean(f"the file is {found.version.id} already"))
        return exits.OK
    ctx.out.line(clean(f"the file is {found.version.id} again" + (f"; it was {kept.id}" if kept else "")))
    ctx.out.line("the sources still give another one, which the next generation writes")
    ctx.out.line(gateway_text.APPLY.replace("gateway apply", f"gateway rollback {found.version.id} --apply"))
    return exits.OK


def _list(ctx: Context, versions: Any) -> int:
    if ctx.json:
        ctx.print_json([{"id": v.id, "written": v.written, "digest": v.digest, "path": v.path} for v in versions])
        return exits.OK
    rows = [(v.id, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(v.written)), v.digest[:12]) for v in versions]
    if rows:
        ctx.out.table(("VERSION", "WRITTEN", "DIGEST"), rows)
    else:
        ctx.out.line("no earlier version is kept")
    return exits.OK
