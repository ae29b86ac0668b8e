"""agentctl gateway import FILE: sources from a hand-written LiteLLM config."""

from __future__ import annotations

from agentd.cli import exits, gateway_text
from agentd.cli.context import Context
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway, offline_gateway_import

    args = ctx.args
    done = offline_gateway_import.bring(
        offline.config(args.config).settings, args.file, args.into or "", force=args.force
    )
    if ctx.json:
        ctx.print_json(
            {
                "directory": done.directory,
                "written": list(done.written),
                "notes": list(done.notes),
                "secrets": list(done.secrets),
                "env_file": done.env_file if done.secrets else "",
                "problems": offline_gateway.records(done.problems),
            }
        )
    else:
        out = ctx.out
        for name in done.written:
            out.line(clean(f"wrote {done.directory}/{name}"))
        if done.secrets:
            out.line(clean(f"keys that stood in the file are in {done.env_file} now: {', '.join(done.secrets)}"))
        for note in done.notes:
            out.line(out.paint("? ", "yellow") + clean(note))
        if done.problems:
            gateway_text.problems(ctx, done.problems)
        out.line("next: agentctl gateway validate, then agentctl gateway generate --dry-run")
    return exits.REFUSED if offline_gateway.error_count(done.problems) else exits.OK
