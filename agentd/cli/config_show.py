"""agentctl config show"""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context


def run(ctx: Context) -> int:
    from agentd import offline

    args = ctx.args
    if ctx.json:
        ctx.print_json(offline.config_json(args.config))
    else:
        ctx.out.line(offline.config_text(args.config, provenance=args.provenance, defaults=args.defaults))
    return exits.OK
