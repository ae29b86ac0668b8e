"""agentctl events [-f]"""

from __future__ import annotations

import json
import time
from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean
from agentd.client import Unreachable

QUIET = 60.0
AWAY = 30.0


def run(ctx: Context) -> int:
    limit = 30 if ctx.args.lines is None else ctx.args.lines
    if ctx.args.follow:
        _follow(ctx, limit)
    events = ctx.client.get(f"/v1/events?limit={limit}")["events"]
    if ctx.json:
        ctx.print_json(events)
    else:
        for event in events:
            ctx.out.line(_line(event))
    return exits.OK


def _follow(ctx: Context, limit: int) -> None:
    """Until Ctrl-C; a daemon that restarts is found again, and nothing in between is missed."""
    after, gone_since = 0, 0.0
    while True:
        try:
            with ctx.client.stream(f"/v1/events?follow=1&limit={limit}&after={after}") as stream:
                gone_since = 0.0
                while (message := stream.next(QUIET)) is not None:
                    event = json.loads(message[1])
                    after, limit = event["seq"], 10000
                    if ctx.json:
                        ctx.print_json(event, compact=True)
                    else:
                        ctx.out.write(_line(event) + "\n")
        except Unreachable:
            gone_since = gone_since or time.monotonic()
            if after == 0 or time.monotonic() - gone_since > AWAY:
                raise
            time.sleep(0.2)


def _line(event: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    subject = f"{event['subject']}: " if event["subject"] else ""
    return clean(f"{when}  {event['kind']:<22}  {subject}{event['message']}")
