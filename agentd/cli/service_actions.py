"""agentctl start|stop|restart NAME"""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean
from agentd.client import quote

SECONDS = 1800.0
"""A model's start is a whole switch; agentd's own deadlines end it long before."""


def run(ctx: Context) -> int:
    name = ctx.args.name
    service = ctx.client.post(f"/v1/services/{quote(name)}/{ctx.command}", timeout=SECONDS)
    if ctx.json:
        ctx.print_json(service)
    else:
        done = {"start": "started", "stop": "stopped", "restart": "restarted"}[ctx.command]
        cause = f": {service['cause']}" if service["cause"] else ""
        ctx.out.line(clean(f"{name} is {done} ({service['unit']}), now {service['health']}{cause}"))
    return exits.OK
