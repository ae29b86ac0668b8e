"""Findings for a person: unit by unit, what is wrong first with its cause and fix, then what holds, compactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agentd.cli.terminal import Terminal, clean

Row = dict[str, Any]

MARKS = {"ok": ("+", "green"), "info": ("?", "dim"), "warning": ("!", "yellow"), "error": ("x", "red")}
ORDER = ("error", "warning", "info", "ok")
QUIET = ("not-installed", "not-running", "effective")
"""Verdicts that are told by name alone, unless everything is wanted."""
WIDEST = 34
"""Columns that a value may take; a longer one is cut, `--json` and `dropins show` have it whole."""


def show(out: Terminal, findings: Sequence[Row], *, everything: bool = False) -> None:
    """`everything`: the directives that hold, too, line by line."""
    for subject in dict.fromkeys(f["subject"] for f in findings):
        own = sorted((f for f in findings if f["subject"] == subject), key=lambda f: ORDER.index(f["severity"]))
        out.line(out.paint(clean(subject), "bold") + "  " + summary(own))
        quiet = () if everything else QUIET
        _rows(out, [f for f in own if f["verdict"] not in quiet])
        for verdict in quiet:
            _names(out, verdict, [f for f in own if f["verdict"] == verdict])
        out.line()


def summary(findings: Iterable[Row]) -> str:
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding["verdict"]] = counts.get(finding["verdict"], 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=lambda item: -item[1]))


def _rows(out: Terminal, findings: Sequence[Row]) -> None:
    if not findings:
        return
    cells = [
        [_cut(f[key] or "-") for key in ("aspect", "declared", "loaded", "effective")] + [f["verdict"]]
        for f in findings
    ]
    header = ["DIRECTIVE", "DECLARED", "LOADED", "EFFECTIVE", "VERDICT"]
    widths = [max(len(row[i]) for row in (header, *cells)) for i in range(len(header))]
    out.line("    " + out.paint("  ".join(h.ljust(w) for h, w in zip(header, widths, strict=True)).rstrip(), "dim"))
    for index, (finding, row) in enumerate(zip(findings, cells, strict=True)):
        mark, tone = MARKS[finding["severity"]]
        line = "  ".join(c.ljust(w) for c, w in zip(row[:-1], widths, strict=False))
        out.line(f"  {out.paint(mark, tone)} {line}  {out.paint(row[-1], tone)}")
        following = findings[index + 1] if index + 1 < len(findings) else None
        if following is None or _reason(following) != _reason(finding):
            _explain(out, finding)


def _reason(finding: Row) -> tuple[str, str]:
    return finding["cause"], finding["fix"]


def _explain(out: Terminal, finding: Row) -> None:
    """Once for neighbours that have the same cause."""
    for word, key in (("why", "cause"), ("fix", "fix"), ("see", "source")):
        if finding[key] and not (key == "source" and finding["severity"] in ("ok", "info")):
            out.line(f"      {out.paint(word, 'dim')} {clean(finding[key])}")


def _names(out: Terminal, verdict: str, findings: Sequence[Row]) -> None:
    """What needs no table: only the names, and each cause once."""
    for reason in dict.fromkeys(map(_reason, findings)):
        _wrapped(out, f"{verdict}: ", [f["aspect"] for f in findings if _reason(f) == reason])
        if reason[0]:
            _explain(out, next(f for f in findings if _reason(f) == reason))


def _wrapped(out: Terminal, lead: str, names: Sequence[str]) -> None:
    line, widest = lead, max(60, min(out.width, 120)) - 6
    for index, name in enumerate(names):
        word = clean(name) + ("" if index == len(names) - 1 else ", ")
        if len(line) + len(word) > widest:
            out.line("    " + out.paint(line.rstrip(), "dim"))
            line = ""
        line += word
    out.line("    " + out.paint(line.rstrip(), "dim"))


def _cut(text: object) -> str:
    plain = clean(text)
    return plain if len(plain) <= WIDEST else plain[: WIDEST - 3] + "..."
