"""agentctl models add NAME: writes the files itself, then agentd, if it runs, reads its configuration again."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean
from agentd.client import Unreachable
from agentd.errors import AgentdError

SECONDS = 60.0
NO_AGENTD = "agentd does not run; it finds the model at its start"


def run(ctx: Context) -> int:
    from agentd import offline_models
    from agentd.offline_models_plan import Wanted

    args = ctx.args
    wanted = Wanted(
        name=args.name, path=args.path or "", repo=args.id or "", port=args.port or 0, uds=args.uds or "",
        served_name=args.served_name or "", utilization=args.utilization, tensor_parallel=args.tensor_parallel or "",
        max_model_len=args.max_model_len or "", slot=args.slot or "", switch=args.switch, loader=args.loader or "",
        credential=args.api_key_credential or "", env_file=args.env_file or "", vllm=args.vllm or "",
        extra=tuple(args.extra), replace=args.replace, force=args.force,
    )  # fmt: skip
    done = offline_models.add(wanted)
    notes = [*done.notes, *reloaded(ctx, done)]
    assert done.model is not None
    if ctx.json:
        ctx.print_json(
            {"name": done.name, "unit": done.unit, "url": done.model.url, "changed": done.changed,
             "files": list(done.files), "notes": notes}
        )  # fmt: skip
        return exits.OK
    replaced = any(text is not None for text in done.before.values())
    verb = ("replaced" if replaced else "added") if done.changed else "already so"
    ctx.out.line(f"{done.name}: {verb}; {done.unit}, {clean(done.model.url)}")
    tell(ctx, done.files if done.changed else (), notes)
    if done.changed:
        ctx.out.line(f"make it resident: agentctl switch-model {done.name}")
    return exits.OK


def tell(ctx: Context, files: tuple[str, ...], notes: list[str]) -> None:
    for file in files:
        ctx.out.line(f"  {clean(file)}")
    for note in notes:
        ctx.out.line(ctx.out.paint("! ", "yellow") + clean(note))


def reloaded(ctx: Context, done: Any) -> list[str]:
    """agentd reads its configuration again; when it refuses that, all is as before. Raises AgentdError."""
    from agentd import offline_models

    try:
        if not done.changed and any(model["name"] == done.name for model in ctx.client.get("/v1/models")["models"]):
            return []
        ctx.client.post("/v1/reload", timeout=SECONDS)
    except Unreachable:
        return [NO_AGENTD]
    except AgentdError as error:
        if done.changed:
            offline_models.take_back(done)
            _read_old(ctx, error)
        raise
    return []


def _read_old(ctx: Context, refusal: AgentdError) -> None:
    """What failed in part, or only took too long, may be in force all the same, and its files are gone again."""
    try:
        ctx.client.post("/v1/reload", timeout=SECONDS)
    except AgentdError as error:
        first = error.message.splitlines()[0].rstrip(":")
        note = f"the files are as before, but agentd has not read them again ({first}): agentctl reload"
        refusal.hint = "; ".join(filter(None, (refusal.hint, note)))
