"""agentctl status"""

from __future__ import annotations

from typing import Any

from agentd.cli import exits, runtime_text, without_daemon
from agentd.cli.context import Context
from agentd.cli.durations import span
from agentd.cli.services import service_rows
from agentd.cli.terminal import Terminal, clean
from agentd.client import Unreachable

VOID = ("not-effective", "not-loaded", "needs-restart", "overridden", "drift")
RESTING = ("idle", "active", "leased", "degraded", "wedged")


def run(ctx: Context) -> int:
    try:
        status = ctx.client.get("/v1/status")
    except Unreachable as error:
        raise without_daemon.tell(ctx, error) from None
    wrong = concerns(status)
    if ctx.json:
        ctx.print_json(status)
    else:
        _show(ctx.out, status, wrong)
    return exits.FAILED if ctx.args.check and wrong else exits.OK


def concerns(status: dict[str, Any]) -> list[str]:
    """What is not as it should be, one sentence each."""
    found = [f"agentd: {c['name']}: {c['detail'] or 'failed'}" for c in status["checks"] if not c["ok"]]
    if not status["config"]["valid"] and not any(c["name"] == "config" for c in status["checks"] if not c["ok"]):
        found.append("agentd: the configuration's files are not valid; see: agentctl config check")
    return [
        *found,
        *filter(None, map(_slot_concern, status["slots"])),
        *filter(None, map(_concern, status["services"])),
        *_store_concerns(status),
        *_gateway_concerns(status),
        *_gpu_concerns(status),
    ]


def _slot_concern(slot: dict[str, Any]) -> str:
    if slot["state"] not in ("degraded", "wedged"):
        return ""
    return f"slot {slot['name']}: {slot['state']}" + (f": {slot['cause']}" if slot["cause"] else "")


def _concern(service: dict[str, Any]) -> str:
    if not service.get("enabled", True):
        return ""
    if not service["crash_loop"] and service["health"] not in ("failed", "missing", "unready", "degraded"):
        return ""
    word = "crash loop" if service["crash_loop"] else service["health"]
    return f"{service['name']}: {word}" + (f": {service['cause']}" if service["cause"] else "")


def _gateway_concerns(status: dict[str, Any]) -> list[str]:
    """What only a look at the gateway shows; that it does not answer its service says."""
    found = status.get("gateway")
    if not found or found["state"] not in ("open", "config-error", "unready", "outdated"):
        return []
    return [f"{found['service']}: {found['state']}: {found['summary']}; see: agentctl gateway status"]


def _gpu_concerns(status: dict[str, Any]) -> list[str]:
    found = (f for f in status.get("gpu_findings", ()) if f["severity"] in ("warning", "error"))
    return [f"{f['subject']}: {f['cause']}" + (f"; {f['fix']}" if f["fix"] else "") for f in found]


def _store_concerns(status: dict[str, Any]) -> list[str]:
    """Every store that is not durable; one whose service was stopped need not answer."""
    stopped = {s["name"] for s in status["services"] if s["health"] == "stopped"}
    return [
        f"store {store['name']}: {store['durability']}: "
        + (store["summary"] or store["problem"] or f"see: agentctl redis status {store['name']}")
        for store in status.get("stores", ())
        if store["durability"] != "durable" and not (store["durability"] == "unreachable" and store["name"] in stopped)
    ]


def _show(out: Terminal, status: dict[str, Any], wrong: list[str]) -> None:
    daemon, now = status["daemon"], status["time"]
    word = out.paint("ready", "green") if status["ready"] else out.paint("not ready", "red")
    profile = status["config"].get("profile")
    used = f", profile {clean(profile)}" if profile else ""
    out.line(f"agentd {daemon['version']}: {word}, {daemon['scope']} scope, up {span(now - daemon['started'])}{used}")
    for slot in status["slots"]:
        out.line()
        _slot(out, slot, now, [model for model in status.get("models", ()) if model["slot"] == slot["name"]])
    if status["services"]:
        out.line()
        out.table(("SERVICE", "ROLE", "HEALTH", "SINCE", "RESTARTS", "UNIT"), service_rows(status["services"], now))
    runtimes = runtime_text.lines(status)
    if runtimes:
        out.line()
        for line in runtimes:
            out.line(line)
    if status.get("gateway"):
        out.line()
        out.line(_gateway(status["gateway"]))
    void = [(u["unit"], sum(u["verdicts"].get(v, 0) for v in VOID)) for u in status.get("hardening", ())]
    if any(count for _, count in void):
        units = ", ".join(f"{count} of {clean(unit)}" for unit, count in void if count)
        out.line()
        out.line(f"directives not in effect: {units}; see: agentctl dropins verify")
    if wrong:
        out.line()
        for sentence in wrong:
            out.line(out.paint("! ", "red") + clean(sentence))


def _gateway(found: dict[str, Any]) -> str:
    absent = [clean(model["model"]) for model in found["models"] if not model["resident"]]
    words = [f"{len(found['listed'])} models", *([f"absent: {', '.join(absent)}"] if absent else [])]
    if found["file_digest"]:
        words.append(f"configuration {clean(found['file_digest'][:8])}")
    return f"gateway {clean(found['service'])}: {clean(found['state'])}, {', '.join(words)}"


def slot_notes(slot: dict[str, Any], models: list[dict[str, Any]]) -> list[str]:
    """Who sleeps there, who may not run, and what a start of the resident one took."""
    levels = {model["name"]: f" (level {model['level']})" if model["level"] else "" for model in models}
    asleep = [name + levels.get(name, "") for name in slot["sleeping"]]
    off = [model["name"] for model in models if model["off"]]
    loads = [span(model["load_seconds"]) for model in models if model["active"] and model["load_seconds"]]
    return [
        *(f"sleeping: {', '.join(found)}" for found in [asleep] if found),
        *(f"switched off: {', '.join(found)}" for found in [off] if found),
        *(f"a start takes about {took}" for took in loads),
    ]


def _slot(out: Terminal, slot: dict[str, Any], now: float, models: list[dict[str, Any]]) -> None:
    state = slot["state"] if slot["state"] in RESTING else f"busy: {slot['state']}"
    resident = out.paint(clean(slot["resident"] or "empty"), "bold")
    default = f" (default {slot['default']})" if slot["default"] and slot["default"] != slot["resident"] else ""
    out.line(f"slot {slot['name']}: {resident}, {out.word(state)}{default}")
    for line in slot_notes(slot, models):
        out.line(clean(f"  {line}"))
    if slot["change"]:
        out.line(f"  change {slot['change']}; follow it with: agentctl switch status {slot['change']} --follow")
    if slot["lease_until"]:
        out.line(f"  lent out for another {span(max(0.0, slot['lease_until'] - now))}; end it with: agentctl lease end")
    for model, until in slot["cooldowns"].items():
        if until > now:
            out.line(clean(f"  {model} failed a moment ago; refused for {span(until - now)} unless --force is given"))
