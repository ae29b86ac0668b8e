"""How plans and settings of profiles of use are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentd.cli.terminal import Terminal, clean

ACTS = (
    ("stop", "red", "is stopped"),
    ("unload", "red", "is unloaded"),
    ("switch", "green", "becomes resident"),
    ("start", "green", "is started"),
)


def show_plan(out: Terminal, plan: dict[str, Any]) -> None:
    """A line for each act and each setting."""
    for key, tone, text in ACTS:
        for name in plan[key]:
            out.line(f"{out.paint(clean(name), tone)}  {text}")
    for unit in plan["units"]:
        out.line(f"{clean(unit)}  has other limits")
    show_changes(out, plan["settings"])
    for note in plan["notes"]:
        out.line(f"{out.paint('note', 'dim')}  {clean(note)}")


def show_changes(out: Terminal, changes: Iterable[dict[str, Any]]) -> None:
    out.table(
        ("SETTING", "BEFORE", "AFTER"),
        [(c["key"], c["before"] or "-", c["after"] or "-") for c in changes],
    )
