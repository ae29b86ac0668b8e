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
    header = ("", "MODEL", "SLOT", "HEALTH", "VRAM", "SERVED AS", "URL", "NOTE")
    ctx.out.table(header, [_row(model, ctx.now()) for model in models])
    return exits.OK


def _row(model: dict[str, Any], now: float) -> tuple[str, ...]:
    mark = "*" if model["active"] else ""
    vram = f"{model['vram'] / 2**30:.1f} GiB" if model["vram"] else ""
    cooldown = model["cooldown_until"] or 0.0
    note = f"refused for {span(cooldown - now)}" if cooldown > now else ""
    return mark, model["name"], model["slot"], model["health"], vram, model["served_name"], model["url"], note
