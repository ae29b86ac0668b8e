"""agentctl gateway generate: check the sources, show what changes, write the config, keep the one before."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits, gateway_text
from agentd.cli.context import Context
from agentd.cli.parser import UsageError
from agentd.cli.terminal import clean, error


def run(ctx: Context) -> int:
    from agentd import offline, offline_gateway

    args = ctx.args
    settings = offline.config(args.config).settings
    found = offline_gateway.read(settings, args.sources or "")
    aside = args.output or ""
    if aside and aside != "-":
        found = offline_gateway.beside(found, aside)
    plan = offline_gateway.plan(found, network=not args.no_network)
    if plan.rendered is None:
        return _refused(ctx, plan, offline_gateway.error_count(plan.problems))
    if aside == "-":
        if ctx.json:
            raise UsageError('--output "-" and --json are two texts for one output')
        ctx.out.write(plan.rendered.text)
        return exits.OK
    if plan.edited and not args.force and not args.dry_run:
        return _edited(ctx, plan, offline_gateway.path_of(found))
    version = None
    if not args.dry_run and not plan.up_to_date:
        version = offline_gateway.write(found, plan)
    _tell(ctx, plan, version, offline_gateway.path_of(found), written=not args.dry_run, running=not aside)
    return exits.OK


def _refused(ctx: Context, plan: Any, count: int) -> int:
    if ctx.json:
        ctx.print_json({"written": False, "problems": _records(plan)})
    else:
        gateway_text.problems(ctx, plan.problems)
        ctx.out.flush()
        error(f"cannot generate: {count} error{'s' if count != 1 else ''} in the sources", "nothing was written")
    return exits.REFUSED


def _edited(ctx: Context, plan: Any, path: str) -> int:
    if ctx.json:
        ctx.print_json({"written": False, "edited": True, "diff": plan.delta, "problems": _records(plan)})
    else:
        gateway_text.changes(ctx.out, plan.delta, plan.words)
        ctx.out.flush()
        error(
            f"cannot write {path}: somebody edited it since it was generated",
            "to keep the edit, bring the lines marked - above into the sources; then, or to drop it: --force"
            " (the edited file is kept as a version)",
        )
    return exits.REFUSED


def _tell(ctx: Context, plan: Any, version: Any, path: str, *, written: bool, running: bool) -> None:
    if ctx.json:
        ctx.print_json(
            {
                "written": written and not plan.up_to_date,
                "up_to_date": plan.up_to_date,
                "config": path,
                "digest": plan.rendered.digest,
                "kept": version.id if version is not None else "",
                "models": list(plan.rendered.expected),
                "diff": plan.delta,
                "changes": list(plan.words),
                "left_out": [{"what": i.what, "why": i.why, "place": str(i.place)} for i in plan.rendered.left_out],
                "problems": _records(plan),
            }
        )
        return
    out = ctx.out
    said = [problem for problem in plan.problems if problem.check != "stale-file"]  # This mends it.
    if said:
        gateway_text.problems(ctx, said)
    gateway_text.changes(out, plan.delta, plan.words if plan.current is not None else ())
    gateway_text.left_out(out, plan.rendered.left_out)
    if plan.up_to_date:
        out.line(clean(f"{path} is up to date ({len(plan.rendered.expected)} models)"))
    elif not written:
        out.line("nothing is written; do it with: agentctl gateway generate")
    else:
        kept = f"; the one before is kept as {version.id}" if version is not None else ""
        out.line(clean(f"wrote {path} ({len(plan.rendered.expected)} models){kept}"))
        if running and not plan.same_config:
            out.line(gateway_text.APPLY if plan.current is not None else gateway_text.FIRST)


def _records(plan: Any) -> list[dict[str, object]]:
    from agentd import offline_gateway

    return offline_gateway.records(plan.problems)
