"""agentctl profile list"""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline_profile
    from agentd.wire import plain

    rows = offline_profile.rows(ctx.args.config)
    if ctx.json:
        ctx.print_json([plain(row) for row in rows])
        return exits.OK
    if not rows:
        ctx.out.line("there is no profile of use")
        return exits.OK
    state = {row.name: _errors(len(row.problems)) for row in rows}
    header = ("", "PROFILE", "DESCRIPTION", "NOTE", "FILE")
    ctx.out.table(header, [("*" if r.selected else "", r.name, r.description, state[r.name], r.file) for r in rows])
    for row in rows:
        for problem in row.problems:
            ctx.out.line(ctx.out.paint("! ", "red") + clean(problem))
    return exits.OK


def _errors(count: int) -> str:
    return f"{count} error{'s' if count > 1 else ''}" if count else ""
