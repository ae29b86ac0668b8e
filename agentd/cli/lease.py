"""agentctl lease --for TIME"""

from __future__ import annotations

from agentd.cli.context import Context
from agentd.cli.follow import accepted
from agentd.cli.parser import UsageError
from agentd.cli.unload import slot_body


def run(ctx: Context) -> int:
    seconds = getattr(ctx.args, "for")
    if not seconds:
        raise UsageError("--for is missing: for how long is the slot to be lent?", "like: agentctl lease --for 2h")
    return accepted(ctx, ctx.client.post("/v1/lease", slot_body(ctx) | {"seconds": seconds}))
