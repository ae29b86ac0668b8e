"""agentctl lease end"""

from __future__ import annotations

from agentd.cli.context import Context
from agentd.cli.follow import accepted
from agentd.client import quote


def run(ctx: Context) -> int:
    return accepted(ctx, ctx.client.request("DELETE", f"/v1/lease?slot={quote(ctx.args.slot or '')}"))
