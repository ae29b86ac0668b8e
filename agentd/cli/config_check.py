"""agentctl config check"""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import error
from agentd.errors import ConfigError


def run(ctx: Context) -> int:
    from agentd import offline

    try:
        text = offline.config_summary(ctx.args.config)
    except ConfigError as problem:
        if ctx.json:
            ctx.print_json({"valid": False, "problems": [str(p) for p in problem.problems]})
        else:
            error(problem.message)
        return exits.FAILED
    ctx.print_json({"valid": True, "problems": []}) if ctx.json else ctx.out.line(text)
    return exits.OK
