"""agentctl switch status [ID]"""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.durations import ago, span
from agentd.cli.follow import finish, wait
from agentd.cli.progress import doing, headline, phase_line, running_line
from agentd.cli.terminal import clean
from agentd.client import quote


def run(ctx: Context) -> int:
    change_id = ctx.args.id
    if change_id is None and ctx.args.follow:
        change_id = running_id(ctx)
        if change_id is None:
            ctx.print_json(None) if ctx.json else ctx.out.line("no change is under way")
            return exits.OK
    if change_id is None:
        return _list(ctx)
    change = ctx.client.get(f"/v1/changes/{quote(change_id)}")
    if ctx.args.follow:
        return finish(ctx, wait(ctx, change))
    if ctx.json:
        ctx.print_json(change)
    else:
        _show(ctx, change)
    return exits.OK


def running_id(ctx: Context) -> str | None:
    slots = ctx.client.get("/v1/slots")["slots"]
    return next((slot["change"] for slot in slots if slot["change"]), None)


def _list(ctx: Context) -> int:
    answer = ctx.client.get(f"/v1/changes?limit={10 if ctx.args.lines is None else ctx.args.lines}")
    if ctx.json:
        ctx.print_json(answer["changes"])
    elif not answer["changes"]:
        ctx.out.line("no change yet; begin one with: agentctl switch-model NAME")
    else:
        rows = [_row(change, ctx.now()) for change in answer["changes"]]
        ctx.out.table(("ID", "WHEN", "CHANGE", "RESULT", "TOOK", "MESSAGE"), rows)
    return exits.OK


def _row(change: dict[str, Any], now: float) -> tuple[str, ...]:
    what = f"{change['kind']} {change['target'] or change['slot']}"
    result = change["outcome"] or change["phase"]
    took = span((change["finished"] or now) - change["created"])
    return change["id"], ago(change["created"], now), what, result, took, change["message"] or doing(change)


def _show(ctx: Context, change: dict[str, Any]) -> None:
    out = ctx.out
    out.line(headline(change))
    for phase in change["phases"]:
        if phase["seconds"] is None:
            out.line(running_line(phase, ctx.now()))
        else:
            out.line(phase_line(phase))
    if change["finished"] is not None:
        took = span(change["finished"] - change["created"])
        out.line(f"{out.word(change['outcome'])}: {clean(change['message'])} ({took})")
    if change["cause"]:
        out.line(f"cause: {clean(change['cause'])}")
