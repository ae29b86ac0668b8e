"""agentctl gateway apply: what the sources give, put to use as a change of agentd's; or, with --dry-run, the plan."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.follow import accepted
from agentd.cli.terminal import clean

DRY_RUN_SECONDS = 60.0
TONES = {"+": "green", "-": "red", "@": "dim"}


def run(ctx: Context) -> int:
    body: dict[str, Any] = {"force": ctx.args.force}
    if ctx.args.dry_run:
        plan = ctx.client.post("/v1/gateway/apply", body | {"dry_run": True}, timeout=DRY_RUN_SECONDS)["plan"]
        return _show(ctx, plan)
    return accepted(ctx, ctx.client.post("/v1/gateway/apply", body))


def _show(ctx: Context, plan: dict[str, Any]) -> int:
    code = exits.REFUSED if plan["refusal"] else exits.OK
    if ctx.json:
        ctx.print_json(plan)
        return code
    out = ctx.out
    for line in plan["delta"].splitlines():
        out.line(out.paint(clean(line), TONES.get(line[:1], "")))
    for text in plan["left_out"]:
        out.line(f"{out.paint('left out', 'yellow')}  {clean(text)}")
    for text in plan["problems"]:
        out.line(f"{out.paint('problem', 'yellow')}  {clean(text)}")
    if plan["refusal"]:
        out.line(f"{out.paint('refused', 'red')}  {clean(plan['refusal'])}")
        out.line("nothing is done; it would be refused")
    elif plan["up_to_date"]:
        out.line("the file is as the sources give it; a gateway that runs by another one would be restarted")
    else:
        how = {"blue-green": "a standby serves meanwhile", "restart": "requests wait, or fail, while it restarts"}
        out.line(f"nothing is done; do it with: agentctl gateway apply ({how[plan['way']]})")
    return code
