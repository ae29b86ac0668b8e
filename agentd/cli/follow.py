"""Waiting for a change: progress while it runs, its end in words, its exit code. The daemon may go away meanwhile."""

from __future__ import annotations

import json
import time
from typing import Any

from agentd.cli import exits, terminal
from agentd.cli.context import Context
from agentd.cli.durations import span
from agentd.cli.progress import Progress
from agentd.client import ApiProblem, Stream, Unreachable, quote

TICK = 0.1
"""Seconds between two drawings of the live line."""
QUIET = 60.0
"""Seconds without a sign of life (the daemon sends one every 15) before the stream is opened again."""
AWAY = 30.0
"""Seconds that the daemon may be gone (it restarts, and picks the change up from its journal)."""


def accepted(ctx: Context, answer: dict[str, Any]) -> int:
    """What a command does with the change that it has begun: wait for it, or only name it."""
    change = answer["change"]
    if change is None:
        ctx.print_json(answer) if ctx.json else ctx.out.line("done; there was no model to bring back")
        return exits.OK
    if ctx.args.no_wait and change["finished"] is None:
        joined = "is already under way" if answer["joined"] else "has begun"
        text = f"change {change['id']} {joined}; follow it with: agentctl switch status {change['id']} --follow"
        ctx.print_json(answer) if ctx.json else ctx.out.line(text)
        return exits.OK
    if answer["joined"] and not ctx.json:
        ctx.out.line(f"joined change {change['id']}, which is already under way")
    return finish(ctx, wait(ctx, change, ctx.args.timeout))


def wait(ctx: Context, change: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
    """The finished change. Ctrl-C leaves it running and says so."""
    progress = None if ctx.json else Progress(ctx.out)
    try:
        return _follow(ctx, change, progress, timeout)
    except KeyboardInterrupt:
        if progress is not None:
            progress.close()
        _goes_on(change, "interrupted")
        raise
    finally:
        if progress is not None:
            progress.close()


def finish(ctx: Context, change: dict[str, Any]) -> int:
    """Say how it ended."""
    code = exits.of_change(change) if change["finished"] is not None else exits.FAILED
    if ctx.json:
        ctx.print_json(change)
    elif change["finished"] is None:
        _goes_on(change, "still running")
    elif code == exits.OK:
        took = span(change["finished"] - change["created"])
        ctx.out.line(terminal.clean(change["message"] or change["outcome"]) + f" ({took})")
    else:
        ctx.out.flush()
        terminal.error(
            change["message"] or change["outcome"],
            "" if change["cause"] in (change["message"] or "") else f"cause: {change['cause']}",
        )
    return code


def _follow(ctx: Context, change: dict[str, Any], progress: Progress | None, timeout: float | None) -> dict[str, Any]:
    deadline = None if timeout is None else time.monotonic() + timeout
    gone_since: float | None = None
    while change["finished"] is None:
        try:
            with ctx.client.stream(f"/v1/changes/{quote(change['id'])}/events") as stream:
                gone_since = None
                change = _read(ctx, stream, change, progress, deadline)
                if deadline is not None and time.monotonic() >= deadline:
                    return change
        except Unreachable as error:
            gone_since = gone_since or time.monotonic()
            if time.monotonic() - gone_since > AWAY:
                error.hint = f"the change is journaled; ask again with: agentctl switch status {change['id']}"
                raise
            time.sleep(TICK)
        except ApiProblem as problem:
            if problem.kind not in ("stopping", "too-many-streams"):
                raise
            time.sleep(TICK)
    if progress is not None:
        progress.update(change, ctx.now())
    return change


def _read(
    ctx: Context, stream: Stream, change: dict[str, Any], progress: Progress | None, deadline: float | None
) -> dict[str, Any]:
    """Until the change has finished, the deadline has passed, or the stream has been silent for too long."""
    heard = time.monotonic()
    while change["finished"] is None:
        now = time.monotonic()
        left = QUIET if deadline is None else deadline - now
        if left <= 0 or now - heard > QUIET:
            break
        message = stream.next(min(left, TICK if ctx.out.live and progress else 1.0))
        if message is not None and message[0] == "message":
            change, heard = json.loads(message[1]), time.monotonic()
            if progress is not None:
                progress.update(change, ctx.now())
        elif progress is not None:
            progress.tick(change, ctx.now())
    return change


def _goes_on(change: dict[str, Any], why: str) -> None:
    change_id = change["id"]
    hint = f"follow it with: agentctl switch status {change_id} --follow"
    if change["slot"]:  # No other can be cancelled.
        hint += f"; cancel it: agentctl switch cancel {change_id}"
    terminal.error(f"{why}: change {change_id} goes on without us", hint)
