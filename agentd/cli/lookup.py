"""A service's unit by its name: from agentd, or from the configuration's files when agentd does not run."""

from __future__ import annotations

from agentd.cli.context import Context
from agentd.client import Unreachable, quote


def unit_of(ctx: Context, name: str) -> tuple[str, str]:
    """(unit, scope)."""
    if name.endswith((".service", ".socket")):
        return name, "user" if ctx.client.path.startswith("/run/user/") else _scope(ctx)
    if name == "agentd":
        return "agentd.service", _scope(ctx)
    try:
        unit = ctx.client.get(f"/v1/services/{quote(name)}")["unit"]
    except Unreachable:
        from agentd import offline

        service = offline.service(name)
        return service.unit, service.scope
    return unit, _scope(ctx)


def _scope(ctx: Context) -> str:
    from agentd.client import SYSTEM_SOCKET

    return "system" if ctx.client.path == SYSTEM_SOCKET else "user"
