"""agentctl logs NAME: hands over to journalctl, with the matches that find a user unit's lines in every journal."""

from __future__ import annotations

import os
import sys

from agentd.cli.context import Context
from agentd.cli.lookup import unit_of
from agentd.errors import AgentdError

LINES = 100


def run(ctx: Context) -> int:
    argv = arguments(ctx, *unit_of(ctx, ctx.args.name))
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        raise AgentdError("no-journalctl", "cannot show logs: journalctl is not installed") from None


def arguments(ctx: Context, unit: str, scope: str) -> list[str]:
    # --user-unit without --user: it also finds the lines that went to the system's journal, as root's do.
    argv = ["journalctl", f"--unit={unit}" if scope == "system" else f"--user-unit={unit}"]
    argv.append(f"--lines={LINES if ctx.args.lines is None else ctx.args.lines}")
    if ctx.args.follow:
        argv.append("--follow")
    if ctx.json:
        argv.append("--output=json")
    if not ctx.out.live:
        argv.append("--no-pager")
    return [*argv, *ctx.args.journalctl]
