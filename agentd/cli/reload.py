"""agentctl reload"""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context

SECONDS = 60.0


def run(ctx: Context) -> int:
    status = ctx.client.post("/v1/reload", timeout=SECONDS)
    if ctx.json:
        ctx.print_json(status)
    else:
        files = ", ".join(status["files"]) or "no file: built-in defaults"
        ctx.out.line(f"the configuration is in force ({files})")
    return exits.OK
