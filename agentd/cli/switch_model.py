"""agentctl switch-model NAME"""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.durations import span
from agentd.cli.follow import accepted
from agentd.cli.terminal import clean

DRY_RUN_SECONDS = 60.0


def run(ctx: Context) -> int:
    args = ctx.args
    body: dict[str, Any] = {"target": args.model, "force": args.force, "rollback": not args.no_rollback}
    if args.drain is not None:
        body["drain"] = args.drain
    if args.on_busy:
        body["on_busy"] = args.on_busy
    if args.dry_run:
        answer = ctx.client.post("/v1/switch", body | {"dry_run": True}, timeout=DRY_RUN_SECONDS)
        return _show(ctx, answer["plan"])
    return accepted(ctx, ctx.client.post("/v1/switch", body))


def _show(ctx: Context, plan: dict[str, Any]) -> int:
    code = exits.OK if plan["ok"] else exits.REFUSED
    if ctx.json:
        ctx.print_json(plan)
        return code
    out = ctx.out
    out.line(clean(f"{plan['previous'] or 'empty'} -> {plan['target']} in slot {plan['slot']}; nothing is done"))
    width = max((len(c["check"]) for c in plan["checks"]), default=0)
    for check in plan["checks"]:
        mark = out.paint("ok    ", "green") if check["ok"] else out.paint("failed", "red")
        out.line(f"  {mark}  {clean(check['check']):<{width}}  {clean(check['detail'])}".rstrip())
    if plan["steps"]:
        out.line("  steps: " + ", ".join(plan["steps"]))
    if plan["estimate_seconds"] is not None:
        out.line(f"  expected to take about {span(plan['estimate_seconds'])}")
    out.line("it would be tried" if plan["ok"] else "it would be refused; the running model would not be touched")
    return code
