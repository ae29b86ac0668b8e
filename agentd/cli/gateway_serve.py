"""agentctl gateway serve: what litellm.service runs. Becomes LiteLLM; needs no agentd and none of its configuration."""

from __future__ import annotations

import sys

from agentd.cli import exits, terminal
from agentd.cli.context import Context
from agentd.errors import AgentdError


def run(ctx: Context) -> int:
    """3 when it cannot: another start would not change that, and the unit is not to be started again."""
    from agentd import offline_serve

    args = ctx.args
    if not args.config:
        raise AgentdError("usage", "cannot serve: no configuration is named", hint="--config FILE")
    wanted = offline_serve.Wanted(
        args.config, args.host, args.port, args.control or "", bool(args.standby), args.litellm or ""
    )
    try:
        program = offline_serve.program(wanted)
        if program.note:
            print(f"agentctl: {program.note}", file=sys.stderr, flush=True)
        offline_serve.become(program)
    except OSError as error:
        terminal.error(f"cannot run {error.filename or 'litellm'}: {error.strerror}")
    except AgentdError as error:
        terminal.error(error.message, error.hint)
    return exits.REFUSED
