"""agentctl dropins apply and rollback: a change, followed to its end."""

from __future__ import annotations

from agentd.cli.context import Context
from agentd.cli.follow import accepted


def run(ctx: Context) -> int:
    args = ctx.args
    if ctx.command == "dropins rollback":
        body = {"set": args.set or "previous", "restart": args.restart}
        return accepted(ctx, ctx.client.post("/v1/dropins/rollback", body))
    body = {"unit": args.unit or "", "restart": args.restart, "force": args.force}
    return accepted(ctx, ctx.client.post("/v1/dropins/apply", body))
