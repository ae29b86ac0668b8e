"""agentctl gpu"""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context


def run(ctx: Context) -> int:
    snapshot = ctx.client.get("/v1/gpus")
    if ctx.json:
        ctx.print_json(snapshot)
        return exits.OK
    if snapshot["error"]:
        ctx.out.line(f"cannot read the GPUs: {snapshot['error']}")
    elif not snapshot["gpus"]:
        ctx.out.line("no NVIDIA GPU is seen; slots work without, but GPU memory is not waited for")
    else:
        rows = [
            (str(g["index"]), g["name"], *(_gib(g[k]) for k in ("used", "free", "total"))) for g in snapshot["gpus"]
        ]
        ctx.out.table(("GPU", "NAME", "USED", "FREE", "TOTAL"), rows)
        _processes(ctx, snapshot["processes"])
    return exits.FAILED if snapshot["error"] else exits.OK


def _processes(ctx: Context, processes: list[dict[str, Any]]) -> None:
    if processes:
        ctx.out.line()
        rows = [(str(p["gpu"]), str(p["pid"]), _gib(p["used"]) if p["used"] else "not told") for p in processes]
        ctx.out.table(("GPU", "PID", "USED"), rows)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
