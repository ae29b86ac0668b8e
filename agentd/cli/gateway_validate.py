"""agentctl gateway validate: every problem of the sources, for people, for scripts and for code scanning."""

from __future__ import annotations

from agentd.cli.context import Context
from agentd.cli.parser import UsageError
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway

    args = ctx.args
    if ctx.json and args.format not in (None, "json"):
        raise UsageError(f"--json and --format {args.format} contradict each other")
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
