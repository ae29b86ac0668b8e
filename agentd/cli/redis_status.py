"""agentctl redis status [STORE]: the last snapshot."""

from __future__ import annotations

from agentd.cli import exits, store_text, without_daemon
from agentd.cli.context import Context
from agentd.client import Unreachable


def run(ctx: Context) -> int:
    try:
        stores = ctx.client.get("/v1/redis")["stores"]
    except Unreachable as error:
        error.hint += "; to look without it: agentctl redis verify"
        raise without_daemon.tell(ctx, error) from None
    found = store_text.chosen(stores, ctx.args.store or "")
    if ctx.json:
        ctx.print_json(found)
        return exits.OK
    now = ctx.now()
    for index, store in enumerate(found):
        if index:
            ctx.out.line()
        store_text.head(ctx.out, store)
        store_text.figures(ctx.out, store, now)
        store_text.attention(ctx.out, store)
    if not found:
        ctx.out.line(store_text.NONE)
    return exits.OK
