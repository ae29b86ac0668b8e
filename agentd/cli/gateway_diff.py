"""agentctl gateway diff: what a generation, or a rollback, would change in the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentd.cli import exits, gateway_text
from agentd.cli.context import Context
from agentd.cli.terminal import error


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway

    args = ctx.args
    settings = offline.config(args.config).settings
    left_out: Sequence[Any] = ()
    if args.version:
        found = offline_gateway.rollback(settings, args.version)
        delta, words, same = found.delta, found.words, found.up_to_date
    else:
        plan = offline_gateway.plan(offline_gateway.read(settings, args.sources or ""), network=False)
        if plan.rendered is None:
            gateway_text.problems(ctx, plan.problems)
            ctx.out.flush()
            error("cannot tell what would change: there are errors in the sources")
            return exits.REFUSED
        # Of a first file the diff says it all.
        words = plan.words if plan.current is not None else ()
        delta, same = plan.delta, plan.up_to_date
        left_out = plan.rendered.left_out
    if ctx.json:
        ctx.print_json({"changes": list(words), "diff": delta, "up_to_date": same})
    else:
        gateway_text.changes(ctx.out, delta, words)
        gateway_text.left_out(ctx.out, left_out)
        if not delta:
            ctx.out.line("nothing would change" if same else "only the header would change")
    return exits.OK if same else exits.FAILED
