"""agentctl secrets init: every key that is missing is made; what is there is kept."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean

WORDS = {"made": "made, and written to", "copied": "copied to", "kept": "kept, in"}


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway, offline_secrets
    from agentd.wire import plain

    found = offline_secrets.ring(offline_gateway.read(offline.config(ctx.args.config).settings))
    done = offline_secrets.init(found, show=ctx.args.show)
    problems = [made for made in done if made.problem]
    if ctx.json:
        rows = [plain(made) for made in done]
        ctx.print_json([row if ctx.args.show else {k: v for k, v in row.items() if k != "value"} for row in rows])
    else:
        _show(ctx, done, found.notes)
    return exits.FAILED if problems else exits.OK


def _show(ctx: Context, done: tuple[Any, ...], notes: tuple[str, ...]) -> None:
    out = ctx.out
    for note in notes:
        out.line(out.paint("! ", "yellow") + clean(note))
    for made in done:
        name = "master key" if made.key == "master" else made.key
        out.line(clean(f"{name}: {WORDS[made.what]} {', '.join(made.where)}"))
        if made.value:
            out.line(f"  {made.value}")
        if made.problem:
            out.line(f"  {out.paint('!', 'red')} {clean(made.problem)}")
    if any(made.what != "kept" for made in done):
        out.line("processes that run have the old state: agentctl secrets check says what they take")
