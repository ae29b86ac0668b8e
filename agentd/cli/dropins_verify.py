"""agentctl dropins verify [UNIT], and prove UNIT: the verdicts, from the daemon or, where it is down, read here."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits, findings_table
from agentd.cli.context import Context
from agentd.client import Unreachable

SECONDS = 120.0


def run(ctx: Context) -> int:
    unit = ctx.args.unit or ""
    prove = ctx.command == "dropins prove"
    try:
        path = "/v1/dropins/prove" if prove else "/v1/dropins/verify"
        findings: list[dict[str, Any]] = ctx.client.post(path, {"unit": unit}, timeout=SECONDS)["findings"]
    except Unreachable:
        from agentd import offline

        findings = offline.findings(unit, prove=prove)
    if ctx.json:
        ctx.print_json(findings)
    elif findings:
        findings_table.show(ctx.out, findings, everything=ctx.args.all)
    else:
        ctx.out.line("nothing is declared, so there is nothing to verify")
    wrong = any(f["severity"] in ("warning", "error") for f in findings)
    return exits.FAILED if wrong else exits.OK
