"""agentctl models show NAME: what the files say, and what agentd knows if it runs."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.durations import span
from agentd.cli.models_verify import gib
from agentd.cli.terminal import clean
from agentd.client import Unreachable, quote
from agentd.errors import AgentdError

Rows = list[tuple[str, str]]


def run(ctx: Context) -> int:
    from agentd import offline_models_look as look

    name = ctx.args.name
    found: dict[str, Any] = look.show(name)
    try:
        found |= {**ctx.client.get(f"/v1/models/{quote(name)}"), "need": _need(ctx, name)}
    except Unreachable:
        found |= {"status": None, "facts": None, "need": []}
    except AgentdError as error:
        if error.kind != "model-not-found":
            raise
        found |= {"status": None, "facts": None, "need": [], "unread": True}
    if ctx.json:
        ctx.print_json(found)
        return exits.OK
    rows = [*_static(found), *_live(found), *_facts(found.get("facts")), *_files(found)]
    width = max(len(label) for label, _ in rows)
    ctx.out.line(ctx.out.paint(name, "bold"))
    for label, text in rows:
        ctx.out.line(f"  {label:<{width}}  {clean(text)}".rstrip())
    return exits.OK


def _need(ctx: Context, name: str) -> list[str]:
    """What PRECHECK would say of GPU memory, a line for each GPU."""
    try:
        plan = ctx.client.post("/v1/switch", {"target": name, "dry_run": True})["plan"]
    except AgentdError:
        return []
    told = [check["detail"] for check in plan["checks"] if check["check"] == "vram"]
    return [line for detail in told for line in detail.replace("; GPU ", "\nGPU ").splitlines()]


def _static(found: dict[str, Any]) -> Rows:
    model = found["model"]
    rows = [
        ("unit", f"{found['unit']}{_owner(found)}"),
        ("url", found["url"]),
        ("served as", model["served_name"]),
        ("slot", model["slot"]),
        ("switch", model["switch"]),
    ]
    if found["command"]:
        rows.append(("command", found["command"]))
    if model["utilization"]:
        rows.append(("utilization", f"{model['utilization']:g} of the GPU's memory"))
    if model["vram"]:
        rows.append(("GPU memory", f"{gib(model['vram'])}, as configured"))
    if found["api_key"]:
        rows.append(("API key", found["api_key"]))
    return rows


def _owner(found: dict[str, Any]) -> str:
    return {"ours": " (made by models add)", "edited": " (made by models add, edited since)"}.get(found["owner"], "")


def _live(found: dict[str, Any]) -> Rows:
    status = found.get("status")
    if found.get("unread"):
        return [("agentd", "has not read it yet: agentctl reload")]
    if not status:
        return [("agentd", "does not run")]
    rows = [("state", f"{status['health']}{', resident' if status['active'] else ''}")]
    return [*rows, *(("GPU need", line) for line in found["need"])]


def _facts(facts: dict[str, Any] | None) -> Rows:
    if not facts:
        return []
    rows: Rows = []
    if facts["version"]:
        rows.append(("vLLM", facts["version"]))
    if facts["vram"]:
        rows.append(("held", f"{gib(facts['vram'])} of GPU memory when it served last"))
    if facts["load_seconds"]:
        phases = ", ".join(f"{phase} {span(seconds)}" for phase, seconds in facts["phases"].items())
        rows.append(("cold start", span(facts["load_seconds"]) + (f" ({phases})" if phases else "")))
    rows += [
        (f"sleep {one['level']}", _sleep(one)) for one in sorted(facts["sleep"], key=lambda one: int(one["level"]))
    ]
    return rows


def _sleep(one: dict[str, Any]) -> str:
    if one["broken"]:
        return f"not used: {one['broken']}"
    parts = [
        f"asleep in {span(one['sleep_seconds'])}" if one["sleep_seconds"] else "",
        f"awake in {span(one['wake_seconds'])}" if one["wake_seconds"] else "",
        f"frees {gib(one['freed'])}" if one["freed"] else "",
        f"keeps {gib(one['residual'])} of GPU memory" if one["residual"] else "",
        f"takes {gib(one['host_bytes'])} of main memory" if one["host_bytes"] else "",
    ]
    return ", ".join(part for part in parts if part) or "not measured"


def _files(found: dict[str, Any]) -> Rows:
    files = found["files"]
    if files is None:
        return [("files", "no path is configured")]
    count = len(files["problems"])
    if count:
        first = files["problems"][0]
        more = f" (and {count - 1} more; see: agentctl models verify {found['name']})" if count > 1 else ""
        return [("files", f"{first['path']} {first['problem']}{more}")]
    return [("files", f"{files['path']}: whole, {files['files']} of weights, {gib(files['size'])}")]
