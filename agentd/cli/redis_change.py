"""agentctl redis enforce, drill and backup: a change, followed to its end; or, with --dry-run, the plan for it."""

from __future__ import annotations

import os
from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.follow import accepted
from agentd.cli.terminal import clean

DRY_RUN_SECONDS = 60.0


def run(ctx: Context) -> int:
    args = ctx.args
    verb = ctx.command.split()[-1]
    body: dict[str, Any] = {"store": args.store or ""}
    if verb == "enforce":
        body["accept_loss"] = args.accept_loss
        if args.dry_run:
            answer = ctx.client.post("/v1/redis/enforce", body | {"dry_run": True}, timeout=DRY_RUN_SECONDS)
            return _show(ctx, answer["plans"])
    if verb == "backup":
        if args.to is not None:
            # The daemon has another working directory.
            body["to"] = os.path.abspath(args.to)  # noqa: PTH100  (pathlib would cost the start-up)
        if args.keep is not None:
            body["keep"] = args.keep
    return accepted(ctx, ctx.client.post(f"/v1/redis/{verb}", body))


def _show(ctx: Context, plans: list[dict[str, Any]]) -> int:
    refused = any(plan["refusals"] for plan in plans)
    code = exits.REFUSED if refused else exits.OK
    if ctx.json:
        ctx.print_json(plans)
        return code
    out = ctx.out
    for plan in plans:
        out.line(out.paint(clean(plan["store"]), "bold"))
        for text in plan["refusals"]:
            out.line(f"  {out.paint('refused', 'red')}  {clean(text)}")
        for number, text in enumerate(plan["steps"], 1):
            out.line(f"  {number}. {clean(text)}")
        for text in plan["notes"]:
            out.line(f"  {out.paint('note', 'dim')}  {clean(text)}")
        if not plan["steps"] and not plan["refusals"]:
            out.line("  nothing to do: it is as wanted")
    steps = any(plan["steps"] for plan in plans)
    if refused:
        out.line("nothing is done; it would be refused")
    elif steps:
        out.line("nothing is done; do it with: agentctl redis enforce")
    return code
