"""agentctl gpu"""

from __future__ import annotations

import time
from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import clean

HEADER = ("GPU", "NAME", "USED", "FREE", "TOTAL", "LOAD", "TEMP", "POWER", "HELD BACK")


def run(ctx: Context) -> int:
    snapshot = ctx.client.get("/v1/gpus")
    problem = _problem(snapshot)
    ctx.print_json(snapshot) if ctx.json else _show(ctx, snapshot, problem)
    return exits.FAILED if problem else exits.OK


def _show(ctx: Context, snapshot: dict[str, Any], problem: str) -> None:
    gpus = snapshot["gpus"]
    if gpus:
        _driver(ctx, snapshot.get("driver"))
        ctx.out.table(HEADER, [_row(gpu) for gpu in gpus])
        _holders(ctx, snapshot)
        _age(ctx, time.time() - (snapshot["observed"] or time.time()))
    elif not problem:
        ctx.out.line("no NVIDIA GPU is seen; slots work without, but GPU memory is not waited for")
    if problem:
        ctx.out.line(clean(f"cannot read {'every GPU' if gpus else 'the GPUs'}: {problem}"))


def _problem(snapshot: dict[str, Any]) -> str:
    """Why not every GPU could be read; "" also on a machine without one (source "none")."""
    if snapshot["error"] or snapshot["gpus"] or snapshot["source"] == "none":
        return str(snapshot["error"])
    # A slot with GPUs would wait for one here: the driver is loaded.
    return "; ".join(fault["text"] for fault in snapshot.get("faults", ())) or "the NVIDIA driver lists none"


def _driver(ctx: Context, driver: dict[str, Any] | None) -> None:
    if driver and driver["version"]:
        ctx.out.line(clean(f"NVIDIA driver {driver['version']}, CUDA {driver['cuda'] or 'unknown'}"))


def _row(gpu: dict[str, Any]) -> tuple[str, ...]:
    memory = [_gib(gpu[key]) for key in ("used", "free", "total")]
    return (str(gpu["index"]), clean(gpu["name"]), *memory, *_details(gpu.get("details") or {}))


def _details(found: dict[str, Any]) -> tuple[str, ...]:
    """ "-" for what the GPU does not tell."""
    load, temperature = found.get("utilization"), found.get("temperature")
    power, limit, throttle = found.get("power"), found.get("power_limit"), found.get("throttle")
    of = f" of {limit:.0f}" if limit is not None else ""
    return (
        "-" if load is None else f"{load:.0%}",
        "-" if temperature is None else f"{temperature:.0f} °C",
        "-" if power is None else f"{power:.0f}{of} W",
        "-" if throttle is None else ", ".join(throttle) or "no",
    )


def _holders(ctx: Context, snapshot: dict[str, Any]) -> None:
    holders = snapshot.get("holders", ())
    rows = [(str(h["gpu"]), _owner(h), str(h["pid"]), _mib(h["used"]), _kind(h)) for h in holders]
    for gpu in snapshot["gpus"]:
        rest = gpu["used"] - sum(p["used"] for p in snapshot["processes"] if p["gpu"] == gpu["index"])
        if rest >= 2**20:
            rows.append((str(gpu["index"]), "(no process is listed)", "", _mib(rest), ""))
    if rows:
        ctx.out.line()
        ctx.out.table(("GPU", "HOLDER", "PID", "USED", ""), sorted(rows, key=lambda row: int(row[0])))


def _age(ctx: Context, seconds: float) -> None:
    """agentd shows its last look; between two of them memory may come and go."""
    if seconds >= 1:
        ctx.out.line()
        ctx.out.line(f"as of {seconds:.0f} s ago")


def _owner(holder: dict[str, Any]) -> str:
    return clean(holder["unit"] or holder["program"] or "a process that is gone")


def _kind(holder: dict[str, Any]) -> str:
    return "foreign" if holder["foreign"] else ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size else "not told"
