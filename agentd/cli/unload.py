"""agentctl unload"""

from __future__ import annotations

from typing import Any

from agentd.cli.context import Context
from agentd.cli.follow import accepted


def run(ctx: Context) -> int:
    return accepted(ctx, ctx.client.post("/v1/unload", slot_body(ctx)))


def slot_body(ctx: Context) -> dict[str, Any]:
    """What an unload and a lease have in common."""
    args = ctx.args
    body: dict[str, Any] = {"slot": args.slot or ""}
    if args.drain is not None:
        body["drain"] = args.drain
    if args.on_busy:
        body["on_busy"] = args.on_busy
    return body
