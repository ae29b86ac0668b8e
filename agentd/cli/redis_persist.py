"""agentctl redis persist FILE: what the file makes effective, and the lines that bring it to the policy."""

from __future__ import annotations

from typing import Any

from agentd.cli import exits
from agentd.cli.context import Context
from agentd.cli.terminal import Terminal, clean

Row = dict[str, Any]


def run(ctx: Context) -> int:
    from agentd import offline_redis_file
    from agentd.wire import plain

    args = ctx.args
    report = plain(offline_redis_file.check(args.file, args.unit or "", args.apply))
    if ctx.json:
        ctx.print_json(report)
    else:
        _show(ctx.out, report, args.unit or "")
    wrong = any(not line["ok"] for line in report["lines"]) or report["problems"] or report["impossible"]
    return exits.REFUSED if report["refused"] else exits.FAILED if wrong else exits.OK


def _show(out: Terminal, report: Row, unit: str) -> None:
    out.line(out.paint(clean(report["file"]), "bold") + (f"  {clean(report['unit'])}" if report["unit"] else ""))
    out.line(f"  {clean(report['server'])}")
    out.line()
    rows = [
        ("" if line["ok"] else "!", line["name"], line["value"] or '""', line["wanted"] or '""', line["source"])
        for line in report["lines"]
    ]
    out.table(("", "DIRECTIVE", "EFFECTIVE", "WANTED", "FROM"), rows)
    out.line()
    for text in report["edits"]:
        out.line(f"{'changed' if report['applied'] else 'to change'}: {clean(text)}")
    if report["applied"]:
        out.line(f"the old text is kept as {clean(report['backup'])}")
    for text in report["impossible"]:
        out.line(out.paint("! ", "red") + "cannot be changed here: " + clean(text))
    for text in report["problems"]:
        out.line(out.paint("! ", "red") + clean(text))
    for text in report["notes"]:
        out.line(out.paint("? ", "yellow") + clean(text))
    _close(out, report, unit)


def _close(out: Terminal, report: Row, unit: str) -> None:
    if report["refused"]:
        out.line(out.paint("refused: ", "red") + clean(report["refused"]))
        out.line("the order that loses nothing is: agentctl redis enforce first, then this")
    elif report["edits"] and not report["applied"]:
        options = f" --unit {clean(unit)}" if unit else ""
        out.line(f"To do it: sudo agentctl redis persist {clean(report['file'])}{options} --apply")
    elif all(line["ok"] for line in report["lines"]) and not report["problems"]:
        # With a note the arguments of its unit are not known, and they beat the file.
        out.line("the file is as the policy wants" if report["notes"] else "the next start reads what the policy wants")
