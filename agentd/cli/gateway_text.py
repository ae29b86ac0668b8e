"""What the gateway's commands say in the same way: problems, what was left out, what changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentd.cli.context import Context
from agentd.cli.terminal import Terminal, clean

FIRST = "put it to use with: agentctl gateway apply"
APPLY = "the running gateway still has the old one; put it to use with: agentctl gateway apply"


def problems(ctx: Context, found: Sequence[Any]) -> None:
    from agentd import offline_gateway

    for line in offline_gateway.report(found, "text").splitlines():
        ctx.out.line(clean(line))


def left_out(out: Terminal, items: Sequence[Any]) -> None:
    for item in items:
        out.line(f"{out.paint('left out', 'yellow')}  {clean(item.what)}: {clean(item.why)}  ({clean(item.place)})")


def changes(out: Terminal, diff: str, words: Sequence[str]) -> None:
    tones = {"+": "green", "-": "red", "@": "dim"}
    for line in diff.splitlines():
        out.line(out.paint(clean(line), tones.get(line[:1], "")))
    if words:
        out.line()
    for text in words:
        out.line(f"  {clean(text)}")
