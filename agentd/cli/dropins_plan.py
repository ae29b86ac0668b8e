"""agentctl dropins plan: what an installation would change, as a diff that a person reads."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import Terminal, clean
from agentd.client import quote

TONES = {"+": "green", "-": "red"}


def run(ctx: Context) -> int:
    query = f"/v1/dropins?unit={quote(ctx.args.unit or '')}&force={int(ctx.args.force)}"
    plan = ctx.client.get(query)
    if ctx.json:
        ctx.print_json(plan)
    else:
        show(ctx.out, plan)
    return exits.OK


def show(out: Terminal, plan: dict[str, Any]) -> None:
    for file in plan["files"]:
        out.line(f"{out.paint(clean(file['unit']), 'bold')}  {file['action']}  {clean(file['path'])}")
        if file["note"]:
            out.line(f"    {clean(file['note'])}")
        for line in file["diff"].splitlines():
            out.line("    " + out.paint(clean(line), TONES.get(line[:1], "")))
    for note in plan["notes"]:
        out.line(out.paint("! ", "yellow") + clean(note))
    changes = sum(file["action"] != "kept" for file in plan["files"])
    if changes:
        out.line(f"{changes} file{'s' if changes > 1 else ''} would change; install with: agentctl dropins apply")
    else:
        out.line("everything is installed as declared")
