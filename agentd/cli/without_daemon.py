"""While agentd is down: systemd's own account of the configured units, so that nobody is left blind."""

from __future__ import annotations

from agentd.cli.context import Context
from agentd.client import Unreachable
from agentd.errors import AgentdError


def tell(ctx: Context, error: Unreachable) -> Unreachable:
    """Print what systemd says, then hand the error back to be raised: the exit code is that of a failure."""
    if ctx.json:
        return error
    from agentd import offline

    try:
        rows = offline.units()
    except AgentdError:
        return error
    if rows:
        ctx.out.line("agentd does not run; systemd says of the configured units:")
        columns = ("name", "role", "active_state", "sub_state", "unit")
        ctx.out.table(("SERVICE", "ROLE", "ACTIVE", "SUB", "UNIT"), [tuple(row[c] for c in columns) for row in rows])
    return error
