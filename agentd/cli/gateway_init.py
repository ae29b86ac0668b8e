"""agentctl gateway init: the packaged sources to begin with; what is there stays."""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway_import
    from agentd.wire import plain

    done = offline_gateway_import.begin(offline.config(ctx.args.config).settings, ctx.args.into or "")
    if ctx.json:
        ctx.print_json(plain(done))
        return exits.OK
    for name in done.written:
        ctx.out.line(clean(f"wrote {done.directory}/{name}"))
    for name in done.kept:
        ctx.out.line(clean(f"kept {done.directory}/{name}: it was there"))
    if done.written:
        ctx.out.line("next: edit them, then agentctl secrets init and agentctl gateway generate")
    return exits.OK
