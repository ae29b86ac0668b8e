"""agentctl version"""

from __future__ import annotations

from agentd import __version__
from agentd.cli import exits
from agentd.cli.context import Context
from agentd.errors import AgentdError


def run(ctx: Context) -> int:
    daemon: str | None = None
    try:
        daemon = ctx.client.get("/v1/status")["daemon"]["version"]
        told = f"agentd {daemon} (running)"
    except AgentdError as error:
        told = f"agentd: {error.message}"
    if ctx.json:
        ctx.print_json({"agentctl": __version__, "agentd": daemon})
    else:
        ctx.out.line(f"agentctl {__version__}")
        ctx.out.line(told)
    return exits.OK
