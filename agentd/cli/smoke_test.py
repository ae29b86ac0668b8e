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
    models = offline_smoke.wanted(found, [args.model] if args.model else [])
    width = max(len("MODEL"), *(len(name) for name, _ in models))

    def told(asked: Any) -> None:
        if not ctx.json:
            _show(ctx, asked, width)

    if not ctx.json:
        ctx.out.line(ctx.out.paint(f"{'MODEL':<{width}}  STATUS  {'FIRST':>8}  {'TOTAL':>8}  ANSWER", "dim"))
    done = offline_smoke.ask(
        found, models, url=args.url or "", timeout=args.timeout, concurrency=args.concurrency or 1, told=told
    )
    failed = [asked.model for asked in done if not asked.ok]
    if ctx.json:
        ctx.print_json([plain(asked) for asked in done])
    elif failed:
        ctx.out.line(f"{len(failed)} of {len(done)} did not answer: {', '.join(map(clean, failed))}")
    return exits.FAILED if failed else exits.OK


def _show(ctx: Context, asked: Any, width: int) -> None:
    first = span(asked.first) if asked.first is not None else "-"
    words = asked.answer if asked.ok else ctx.out.paint(clean(asked.error), "red")
    status = ctx.out.paint(f"{asked.status or '-':<6}", "green" if asked.ok else "red")
    ctx.out.line(
        f"{clean(asked.model):<{width}}  {status}  {first:>8}  {span(asked.total):>8}  "
        + (clean(words) if asked.ok else words)
    )
    ctx.out.flush()
