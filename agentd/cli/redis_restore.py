"""agentctl redis restore: a backup checked, and put into the data directory of a server that is stopped."""

from __future__ import annotations

import os

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.parser import UsageError
from agentd.cli.terminal import clean

STEPS = {
    "read": "checking",
    "load": "loading",
    "place": "copying",
    "commit": "replacing",
}


def run(ctx: Context) -> int:
    args = ctx.args
    if args.check and args.into:
        raise UsageError("--into and --check contradict each other: a check puts nothing anywhere")
    from agentd import offline_redis

    def progress(step: str, detail: str) -> None:
        if not ctx.json:
            ctx.out.line(f"{ctx.out.paint(STEPS.get(step, step).ljust(9), 'dim')}  {clean(detail)}")
            ctx.out.flush()

    done, start = offline_redis.restore(
        _absolute(args.backup), into=_absolute(args.into), store=args.store or "", check=args.check, progress=progress
    )
    if ctx.json:
        from agentd.wire import plain

        ctx.print_json({**plain(done), "start": start})
        return exits.OK
    out = ctx.out
    out.line(f"{out.paint('done     ', 'green')}  {clean(done.message)}")
    out.line(f"{'keys'.ljust(9)}  {done.keys}, {done.expires} of them with a time to live")
    if done.placed:
        out.line(f"{'placed'.ljust(9)}  {clean(', '.join(done.placed))}")
        out.line(f"{'old files'.ljust(9)}  {clean(done.kept) if done.kept else 'there were none'}")
        out.line(f"{'next'.ljust(9)}  {clean(start or 'start the server')}, then: agentctl redis verify")
    return exits.OK


def _absolute(path: str | None) -> str:
    return os.path.abspath(path) if path else ""  # noqa: PTH100  (pathlib would cost the start-up)
