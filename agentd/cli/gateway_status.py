"""agentctl gateway status: the last snapshot, or a look of now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentd.cli import exits, findings_table, without_daemon
from agentd.cli.context import Context
from agentd.cli.durations import ago
from agentd.cli.terminal import Terminal, clean
from agentd.client import Unreachable

LABEL = 12
NONE = 'no gateway is configured; a gateway is a service with the role "gateway"'
LOOK_SECONDS = 60.0
BAD = ("warning", "error")
SHOWN = 8
"""Names in one line."""


def run(ctx: Context) -> int:
    try:
        found = _asked(ctx)
    except Unreachable as error:
        error.hint += "; to check the files without it: agentctl gateway validate"
        raise without_daemon.tell(ctx, error) from None
    if ctx.json:
        ctx.print_json(found)
    elif found is None:
        ctx.out.line(NONE)
    else:
        _show(ctx.out, found, ctx.now())
    wrong = found is not None and any(f["severity"] in BAD for f in found["findings"])
    return exits.FAILED if ctx.args.check and wrong else exits.OK


def _asked(ctx: Context) -> dict[str, Any] | None:
    if ctx.args.look:
        found: dict[str, Any] = ctx.client.post("/v1/gateway/verify", timeout=LOOK_SECONDS)["gateway"]
        return found
    return ctx.client.get("/v1/gateway")["gateway"]  # type: ignore[no-any-return]


def _show(out: Terminal, found: dict[str, Any], now: float) -> None:
    where = ", ".join(clean(found[key]) for key in ("url", "unit") if found[key])
    out.line(f"{out.paint(clean(found['service']), 'bold')}: {out.word(found['state'])}  {where}")
    if found["summary"]:
        out.line(f"  {clean(found['summary'])}")
    if found["change"]:
        out.line(f"  follow the change with: agentctl switch status {clean(found['change'])} --follow")
    for word, text in _lines(found, now) if found["at"] else [("looked at", "not yet")]:
        if text:
            out.line(f"  {out.paint(word.ljust(LABEL), 'dim')} {text}")
    _attention(out, found)


def _lines(found: dict[str, Any], now: float) -> Iterable[tuple[str, str]]:
    yield "models", _models(found)
    yield "key", {True: "taken", False: "refused", None: ""}[found["key_ok"]]
    if found["file_digest"]:
        words = ["edited by hand"] if found["edited"] else []
        words += {True: [], False: ["not what the process runs by"], None: []}[found["running_matches"]]
        yield "config", "; ".join([clean(found["file_digest"][:12]), *words])
    up = {True: "as in the file", False: "they give another file", None: ""}[found["up_to_date"]]
    counts = [f"{n} {word}{'s' * (n > 1)}" for word in ("error", "warning") if (n := _count(found, word))]
    yield "sources", "; ".join(filter(None, (up, ", ".join(counts))))
    for model in found["models"]:
        where = "resident" if model["resident"] else f"absent: {clean(model['when_absent'])}"
        yield "slot model", f"{clean(model['model'])} in {clean(model['slot'])}, {where}"
    yield from _figures(found["figures"])
    yield "changes", "without an interruption" if found["blue_green"] else "by a restart, which shows"
    yield "standby", clean(found["standby"])
    yield "LiteLLM", clean(found["version"])
    yield "looked at", ago(found["at"], now)


def _models(found: dict[str, Any]) -> str:
    listed, expected = found["listed"], found["expected"]
    if not listed and not expected:
        return ""
    names = ", ".join(map(clean, listed[:SHOWN])) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
    wanted = f" of {len(expected)}" if expected and len(expected) != len(listed) else ""
    return f"{len(listed)}{wanted}" + (f": {names}" if names else "")


def _count(found: dict[str, Any], severity: str) -> int:
    return sum(problem["severity"] == severity for problem in found["problems"])


def _figures(figures: dict[str, Any] | None) -> Iterable[tuple[str, str]]:
    if figures is None:
        return
    out_of_use = [clean(name) for name, state in sorted(figures["deployments"].items()) if state == 2]
    yield "out of use", ", ".join(out_of_use)
    opened = sum(figures["cooldowns"].values())
    yield "breakers", f"opened {opened} times since its start" if opened else ""
    good, bad = sum(figures["fallbacks"].values()), sum(figures["failed_fallbacks"].values())
    yield "fallbacks", f"{good} answered, {bad} failed since its start" if good or bad else ""


def _attention(out: Terminal, found: dict[str, Any]) -> None:
    bad = [f for f in found["findings"] if f["severity"] in BAD]
    for finding in sorted(bad, key=lambda f: findings_table.ORDER.index(f["severity"])):
        mark, tone = findings_table.MARKS[finding["severity"]]
        out.line(f"  {out.paint(mark, tone)} {clean(finding['aspect'])}: {clean(finding['cause'])}")
        if finding["fix"]:
            out.line(f"    {out.paint('fix', 'dim')} {clean(finding['fix'])}")
