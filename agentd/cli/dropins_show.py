"""agentctl dropins show [UNIT]: the declared drop-ins with their comments, or the sets installed so far."""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.durations import ago
from agentd.cli.terminal import clean
from agentd.client import quote


def run(ctx: Context) -> int:
    if ctx.args.sets:
        return _sets(ctx)
    files = ctx.client.get(f"/v1/dropins/texts?unit={quote(ctx.args.unit or '')}")["files"]
    if ctx.json:
        ctx.print_json(files)
        return exits.OK
    for file in files:
        ctx.out.line(ctx.out.paint(f"# {clean(file['path'])}", "bold"))
        for line in file["text"].splitlines():
            ctx.out.line(ctx.out.paint(clean(line), "dim" if line.startswith("#") else ""))
        ctx.out.line()
    if not files:
        ctx.out.line("no profile is declared; see: agentctl config show --defaults")
    return exits.OK


def _sets(ctx: Context) -> int:
    sets = ctx.client.get("/v1/dropins/sets")["sets"]
    if ctx.json:
        ctx.print_json(sets)
        return exits.OK
    now = ctx.now()
    rows = [(s["id"], ago(s["time"], now), str(len(s["files"])), s["reason"]) for s in sets]
    ctx.out.table(("SET", "INSTALLED", "FILES", "WHY"), rows)
    return exits.OK
