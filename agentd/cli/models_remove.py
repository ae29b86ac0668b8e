"""agentctl models remove NAME: takes the files away, then agentd, if it runs, reads its configuration again."""

from __future__ import annotations

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.models_add import NO_AGENTD, reloaded, tell
from agentd.client import Unreachable
from agentd.errors import AgentdError


def run(ctx: Context) -> int:
    from agentd import offline_models

    name = ctx.args.name
    _refuse_busy(ctx, name)
    done = offline_models.remove(name, keep_unit=ctx.args.keep_files, force=ctx.args.force)
    notes = [*done.notes, *(note for note in reloaded(ctx, done) if note != NO_AGENTD)]
    if ctx.json:
        ctx.print_json({"name": name, "unit": done.unit, "removed": list(done.files), "notes": notes})
        return exits.OK
    ctx.out.line(f"{name} is removed; its weights are where they were")
    tell(ctx, done.files, notes)
    return exits.OK


def _refuse_busy(ctx: Context, name: str) -> None:
    """A change that is on its way to the model may not have started its unit yet."""
    try:
        slots = ctx.client.get("/v1/slots")["slots"]
    except Unreachable:
        return
    for slot in slots:
        if name in slot["models"] and slot["change"]:
            change = slot["change"]
            text = f"cannot remove {name}: {change} is running in slot {slot['name']}"
            raise AgentdError("conflict", text, hint=f"follow it with: agentctl switch status {change} -f")
