"""agentctl gateway validate: every problem of the sources, for people, for scripts and for code scanning."""

from __future__ import annotations

from agentd.cli.context import Context
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway

    args = ctx.args
    found = offline_gateway.read(offline.config(args.config).settings, args.sources or "")
    problems = offline_gateway.validate(found, network=not args.no_network)
    wanted = args.format or ("json" if ctx.json else "text")
    text = offline_gateway.report(problems, wanted)
    if wanted == "text":
        for line in text.splitlines():
            ctx.out.line(clean(line))
    else:
        ctx.out.line(text.rstrip("\n"))
    return offline_gateway.exit_code(problems, strict=args.strict)
