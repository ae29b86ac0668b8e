"""agentctl gateway enable|disable|set: one thing in the sources; checked first, and everything else stays."""

from __future__ import annotations

from agentd.cli import exits, gateway_text
from agentd.cli.context import Context
from agentd.cli.terminal import clean

NEXT = (
    "the generated file still has the old one; write it with: agentctl gateway generate"
    " (or write it and put it to use: agentctl gateway apply)"
)


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway, offline_gateway_edit

    args = ctx.args
    verb = ctx.command.split()[-1]
    found = offline_gateway.read(offline.config(args.config).settings, args.sources or "")
    if verb == "set":
        done = offline_gateway_edit.set_value(found, args.path, args.value)
        what = f"{args.path} is set"
    else:
        status = f"{verb}d"
        done = offline_gateway_edit.set_status(found, args.what, args.name, status)
        what = f"{args.what} {args.name} is {status}"
    if ctx.json:
        records = offline_gateway.records(done.problems)
        ctx.print_json({"file": done.file, "changed": done.changed, "problems": records})
        return exits.OK
    if done.problems:
        gateway_text.problems(ctx, done.problems)
    ctx.out.line(clean(f"{what} ({done.file})" if done.changed else f"{what} already; nothing to do"))
    if done.changed:
        ctx.out.line(NEXT)
    return exits.OK
