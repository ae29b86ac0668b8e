"""agentctl models"""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.durations import span


def run(ctx: Context) -> int:
    models = ctx.client.get("/v1/models")["models"]
    if ctx.json:
        ctx.print_json(models)
        return exits.OK
    header = ("", "MODEL", "SLOT", "HEALTH", "VRAM", "START", "WAKE", "SERVED AS", "URL", "NOTE")
    ctx.out.table(header, [_row(model, ctx.now()) for model in models])
    return exits.OK


def _row(model: dict[str, Any], now: float) -> tuple[str, ...]:
    mark = "*" if model["active"] else ""
    times = (_seconds(model["load_seconds"]), _seconds(model["wake_seconds"]))
    return (
        mark, model["name"], model["slot"], model["health"], _vram(model), *times, model["served_name"], model["url"],
        _note(model, now),
    )  # fmt: skip


def _vram(model: dict[str, Any]) -> str:
    """What it was seen to hold; else what the configuration says."""
    seen, said = model["learned_vram"], model["vram"]
    return f"{(seen or said) / 2**30:.1f} GiB" + ("" if seen else " (as told)") if seen or said else ""


def _note(model: dict[str, Any], now: float) -> str:
    cooldown = model["cooldown_until"] or 0.0
    notes = [
        f"asleep (level {model['level']})" if model["state"] == "asleep" else "",
        model["off"],
        f"refused for {span(cooldown - now)}" if cooldown > now else "",
    ]
    return "; ".join(filter(None, notes))


def _seconds(value: float) -> str:
    return span(value) if value else ""
