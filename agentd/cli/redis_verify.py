"""agentctl redis verify [STORE]: every finding of a new look, by the daemon or, where it is down, from here."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits, findings_table, store_text
from agentd.cli.context import Context
from agentd.client import Unreachable

SECONDS = 120.0


def run(ctx: Context) -> int:
    name = ctx.args.store or ""
    try:
        stores: list[dict[str, Any]] = ctx.client.post("/v1/redis/verify", {"store": name}, timeout=SECONDS)["stores"]
    except Unreachable:
        from agentd import offline

        stores = offline.stores(name)
    if ctx.json:
        ctx.print_json(stores)
    else:
        for store in stores:
            store_text.head(ctx.out, store)
            findings_table.show(ctx.out, store["findings"], everything=ctx.args.all)
            if not store["findings"]:
                ctx.out.line()
        if not stores:
            ctx.out.line(store_text.NONE)
    # Where there is no store nothing is durable: a script that counts on it has to hear of a lost configuration.
    return exits.OK if stores and all(s["durability"] == "durable" for s in stores) else exits.FAILED
