"""agentctl dropins adopt UNIT: edited or hand-written drop-ins become part of the configuration."""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    done = ctx.client.post("/v1/dropins/adopt", {"unit": ctx.args.unit}, timeout=60.0)["done"]
    if ctx.json:
        ctx.print_json(done)
        return exits.OK
    for sentence in done:
        ctx.out.line(clean(sentence))
    if not done:
        ctx.out.line(f"{clean(ctx.args.unit)} has no drop-in that was edited or written by hand")
    return exits.OK
