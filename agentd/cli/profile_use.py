"""agentctl profile use: a change of agentd's; without a running agentd, a selection that counts from its start."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.follow import accepted
from agentd.cli.profile_text import show_plan
from agentd.client import Unreachable
from agentd.errors import AgentdError

SECONDS = 30.0


def run(ctx: Context) -> int:
    name = _name(ctx)
    if ctx.args.config:  # It is not the running agentd's.
        return _offline(ctx, name)
    body: dict[str, Any] = {"name": name, "dry_run": ctx.args.dry_run}
    try:
        answer = ctx.client.post("/v1/profile/use", body, timeout=SECONDS)
    except Unreachable as error:
        if error.kind != "daemon-unreachable":
            raise
        return _offline(ctx, name)
    if not ctx.args.dry_run:
        return accepted(ctx, answer)
    return _planned(ctx, answer["plan"], name)


def _name(ctx: Context) -> str:
    name = ctx.args.name or ""
    if bool(name) == ctx.args.none:
        message = "cannot choose: give the name of a profile, or --none"
        raise AgentdError("usage", message, hint="see: agentctl profile list")
    return str(name)


def _planned(ctx: Context, plan: dict[str, Any], name: str) -> int:
    if ctx.json:
        ctx.print_json(plan)
        return exits.OK
    show_plan(ctx.out, plan)
    ctx.out.line(f"nothing is done; do it with: agentctl profile use {name or '--none'}")
    return exits.OK


def _offline(ctx: Context, name: str) -> int:
    from agentd import offline_profile
    from agentd.cli.profile_show import tell
    from agentd.wire import plain

    chosen = offline_profile.use(name, ctx.args.config, dry_run=ctx.args.dry_run)
    found = plain(chosen) if chosen is not None else None
    what = f"profile {name}" if name else "no profile"
    if ctx.json:
        ctx.print_json({"profile": name, "selected": not ctx.args.dry_run, "shown": found})
    elif ctx.args.dry_run:
        if found is not None:
            tell(ctx, found)
        ctx.out.line(f"nothing is done; {what} would be in force from the next start of agentd")
    else:
        selected = f"{what} is selected, and" if name else "no profile is selected, and none is"
        ctx.out.line(f"{selected} in force from the next start of agentd")
    return exits.OK
