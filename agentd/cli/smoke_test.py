"""agentctl smoke-test: one real question to each model through the gateway."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.durations import span
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway, offline_smoke
    from agentd.wire import plain

    args = ctx.args
    found = offline_gateway.read(offline.config(args.config).settings)
    wanted = offline_smoke.questions(found, only=args.model or "", url=args.url or "")
    width = max(len("MODEL"), *map(len, wanted.models))

    def told(asked: Any) -> None:
        if not ctx.json:
            _show(ctx, asked, width)

    if not ctx.json:
        ctx.out.line(ctx.out.paint(f"{'MODEL':<{width}}  STATUS  {'FIRST':>8}  {'TOTAL':>8}  ANSWER", "dim"))
        ctx.out.flush()
    done = offline_smoke.ask(wanted, timeout=args.timeout, concurrency=args.concurrency or 1, told=told)
    failed = [asked.model for asked in done if not asked.ok and not asked.absent]
    if ctx.json:
        ctx.print_json([plain(asked) for asked in done])
    else:
        _sum_up(ctx, done, failed, wanted.left_out)
    return exits.FAILED if failed else exits.OK


def _sum_up(ctx: Context, done: tuple[Any, ...], failed: list[str], left_out: tuple[str, ...]) -> None:
    absent = [asked.model for asked in done if asked.absent]
    if left_out:
        ctx.out.line(f"not asked, since a sentence is no question for them: {', '.join(map(clean, left_out))}")
    if absent:
        ctx.out.line(f"not in their slot now, and refused as when_absent says: {', '.join(map(clean, absent))}")
    if failed:
        ctx.out.line(f"{len(failed)} of {len(done)} did not answer: {', '.join(map(clean, failed))}")


def _show(ctx: Context, asked: Any, width: int) -> None:
    out = ctx.out
    first = span(asked.first) if asked.first is not None else "-"
    tone = "green" if asked.ok else "yellow" if asked.absent else "red"
    words = clean(asked.answer) if asked.ok else out.paint(clean(asked.error), tone)
    by = out.paint(f"(by {clean(asked.by)}) ", "yellow") if asked.by else ""
    status = out.paint(f"{asked.status or '-':<6}", tone)
    out.line(f"{clean(asked.model):<{width}}  {status}  {first:>8}  {span(asked.total):>8}  {by}{words}")
    out.flush()
