"""agentctl gateway prove: what the policy promises, and what requests to the real LiteLLM measured."""

from __future__ import annotations

import sys
from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean


def run(ctx: Context) -> int:
    from agentd import offline, offline_prove

    args = ctx.args
    settings = offline.config(args.config).settings
    tell = _silent if ctx.json else _told
    proof = offline_prove.prove(settings, full=args.full, only=args.only or "", sources=args.sources or "", tell=tell)
    if ctx.json:
        ctx.print_json(proof)
    else:
        _show(ctx, proof)
    return exits.OK if proof["ok"] else exits.REFUSED


def _told(text: str) -> None:
    print(clean(text), file=sys.stderr, flush=True)


def _silent(_: str) -> None:
    pass


def _show(ctx: Context, proof: dict[str, Any]) -> None:
    out, rows = ctx.out, proof["promises"]
    out.line()
    shown = [("ok" if row["ok"] else "failed", row["name"], row["promised"], row["measured"]) for row in rows]
    out.table(("VERDICT", "PROMISE", "PROMISED", "MEASURED"), shown)
    untrue = [row for row in rows if not row["ok"]]
    if untrue:
        out.line()
    for row in untrue:
        detail = f"; {row['detail']}" if row["detail"] else ""
        out.line(clean(f"not as promised: {row['name']}: {row['promised']}; measured: {row['measured']}{detail}"))
        out.line(clean(f"    how: {row['how']}"))
    out.line()
    for note in proof["notes"]:
        out.line(clean(note))
    true = len(rows) - len(untrue)
    out.line(clean(f"LiteLLM {proof['litellm']}: {true} of {len(rows)} promises true, in {proof['seconds']:.0f} s"))
