"""agentctl profile show"""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.profile_text import show_changes
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline_profile
    from agentd.wire import plain

    found = plain(offline_profile.show(ctx.args.name, ctx.args.config))
    if ctx.json:
        ctx.print_json(found)
    else:
        tell(ctx, found)
    return exits.OK


def tell(ctx: Context, found: dict[str, Any]) -> None:
    out = ctx.out
    out.line(f"{out.paint(clean(found['name']), 'bold')}: {clean(found['description'] or 'no description')}")
    out.line(f"file: {clean(found['file'])}")
    if found["off"]:
        out.line(f"does not run: {clean(', '.join(found['off']))}")
    if found["changes"]:
        out.line()
        show_changes(out, found["changes"])
