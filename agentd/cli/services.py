"""agentctl services"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentd.cli import exits, without_daemon
from agentd.cli.context import Context
from agentd.cli.durations import ago
from agentd.client import Unreachable


def run(ctx: Context) -> int:
    try:
        services = ctx.client.get("/v1/services")["services"]
    except Unreachable as error:
        raise without_daemon.tell(ctx, error) from None
    if ctx.json:
        ctx.print_json(services)
        return exits.OK
    rows = [(*row, why) for row, why in zip(service_rows(services, ctx.now()), map(_why, services), strict=True)]
    ctx.out.table(("SERVICE", "ROLE", "HEALTH", "SINCE", "RESTARTS", "UNIT", "WHY"), rows)
    return exits.OK


def service_rows(services: Iterable[dict[str, Any]], now: float) -> list[tuple[str, ...]]:
    return [
        (
            service["name"],
            service["role"],
            "crash loop" if service["crash_loop"] else service["health"],
            ago(service["since"], now),
            str(service["restarts"] or ""),
            service["unit"],
        )
        for service in services
    ]


def _why(service: dict[str, Any]) -> str:
    return str(service["cause"] or "")
