"""agentctl models sleep-check NAME"""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.follow import accepted


def run(ctx: Context) -> int:
    args = ctx.args
    body: dict[str, Any] = {"model": args.name, "level": int(args.level or 0)}
    if args.drain is not None:
        body["drain"] = args.drain
    code = accepted(ctx, ctx.client.post("/v1/models/sleep-check", body))
    return code if code != exits.OK or ctx.args.no_wait else _shown(ctx)


def _shown(ctx: Context) -> int:
    """What was measured; "broken" is a failure for a script, though the model serves."""
    facts = ctx.client.get(f"/v1/models/{ctx.args.name}")["facts"]
    checked = sorted(facts["sleep"], key=lambda one: one["checked"])
    if not checked:
        return exits.OK
    one = checked[-1]
    if one["broken"]:  # The figures are those of an earlier one that worked.
        return exits.FAILED
    if ctx.json:  # The change was printed, and one document is enough.
        return exits.OK
    rows = [
        ("sleep", f"{one['sleep_seconds']:.2f} s"),
        ("wake", f"{one['wake_seconds']:.2f} s"),
        ("GPU memory freed", f"{one['freed'] / 2**30:.1f} GiB"),
        ("GPU memory kept", f"{one['residual'] / 2**30:.1f} GiB"),
        ("main memory taken", f"{one['host_bytes'] / 2**30:.1f} GiB"),
    ]
    for name, value in rows:
        ctx.out.line(f"  {name:<18}{value}")
    return exits.OK
