"""agentctl switch cancel [ID]"""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.follow import finish, wait
from agentd.cli.switch_status import running_id
from agentd.client import quote
from agentd.errors import AgentdError


def run(ctx: Context) -> int:
    change_id = ctx.args.id or running_id(ctx)
    if change_id is None:
        raise AgentdError("no-change", "cannot cancel: no change is under way")
    change = ctx.client.post(f"/v1/changes/{quote(change_id)}/cancel")["change"]
    if ctx.args.no_wait:
        ctx.print_json(change) if ctx.json else ctx.out.line(f"change {change_id} is being cancelled")
        return exits.OK
    code = finish(ctx, wait(ctx, change, ctx.args.timeout))
    # That it ended as cancelled is what was asked for.
    return exits.OK if code == exits.CANCELLED else code
