"""agentctl secrets check: present, strong, private, the same everywhere, and what the running gateway says."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean

MARKS = {"ok": ("+", "green"), "info": ("?", "dim"), "warning": ("!", "yellow"), "error": ("x", "red")}


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway, offline_rotation, offline_secrets
    from agentd.wire import plain

    found = offline_secrets.ring(offline_gateway.read(offline.config(ctx.args.config).settings))
    rows = offline_secrets.check(found, network=not ctx.args.no_network)
    left = offline_rotation.unfinished(found.settings)
    wrong = any(row.level == "error" for row in rows)
    if ctx.json:
        ctx.print_json(
            {"ok": not wrong, "rotation": left, "notes": list(found.notes), "rows": [plain(r) for r in rows]}
        )
    else:
        _show(ctx, rows, found.notes, left)
    return exits.FAILED if wrong else exits.OK


def _show(ctx: Context, rows: tuple[Any, ...], notes: tuple[str, ...], left: str) -> None:
    out = ctx.out
    for row in rows:
        mark, tone = MARKS[row.level]
        out.line(f"{out.paint(mark, tone)} {clean(row.key)}  {clean(row.where)}: {clean(row.text)}")
        if row.fix:
            out.line(f"    {out.paint('fix', 'dim')} {clean(row.fix)}")
    for note in notes:
        out.line(out.paint("! ", "yellow") + clean(note))
    if left == "shared":
        out.line("the old master key is still accepted; end that with: agentctl secrets rotate --finish")
    elif left:
        out.line(f"a rotation was cut off ({clean(left)}); the next agentctl secrets rotate ends it or takes it back")
