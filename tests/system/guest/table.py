"""The table of directives: what each does in each scope on each systemd, as it was measured from inside of services."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentd.findings import Finding, Verdict

FILE = Path(__file__).resolve().parent.parent / "expected.json"
EFFECTIVE, UNSEEN, NOT_MEASURED = "yes", "yes?", "-"
"""Words of a cell. UNSEEN: in effect, but neither a look from outside nor a canary shows it. The others are "no",
"unknown" (systemd does not know it) and "?" (could not be proven), for which "effective" is wrong, and the exit status
with which the service does not start."""


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    lines: tuple[str, ...]
    aspect: str
    """The directive that is judged."""
    cell: str
    users: bool
    """Together with PrivateUsers=yes."""
    why: str = ""
    """Why this machine is an exception."""

    @property
    def name(self) -> str:
        return "; ".join((*self.lines, "PrivateUsers=yes") if self.users else self.lines)

    @property
    def unit(self) -> str:
        return f"row{self.number:02}{'u' if self.users else ''}.service"

    def text(self, *more: str) -> str:
        users = ("PrivateUsers=yes",) if self.users else ()
        frame = ("[Service]", "Type=exec", "ExecStart=/bin/sleep 1000", "TimeoutStopSec=5")
        return "\n".join((*frame, *more, *users, *self.lines, ""))


@dataclass(frozen=True, slots=True)
class Measured:
    row: Row
    running: bool
    status: int
    findings: tuple[Finding, ...] = ()
    """About the row's directive."""
    proven: bool = False
    """A canary was asked."""
    seconds: float = 0.0

    @property
    def said(self) -> str:
        """The verdict about all of the directive: "effective" only when each finding says so."""
        verdicts = {finding.verdict for finding in self.findings}
        if verdicts == {Verdict.EFFECTIVE}:
            return Verdict.EFFECTIVE.value
        return "/".join(sorted(v.value for v in verdicts - {Verdict.EFFECTIVE})) or "nothing"

    @property
    def wrong_effective(self) -> bool:
        return self.row.cell not in (EFFECTIVE, UNSEEN) and self.said == Verdict.EFFECTIVE.value

    @property
    def problem(self) -> str:
        """ "" when it is as the table says."""
        cell = self.row.cell
        if self.wrong_effective:
            return f"WRONG EFFECTIVE, the table has {cell!r}"
        if cell.isdigit():
            return "" if (self.running, self.status) == (False, int(cell)) else f"it should not start: {self._start}"
        if not self.running:
            return f"it does not start: {self._start}"
        if not self.findings:
            return "nothing is said of it"
        right = {EFFECTIVE: {Verdict.EFFECTIVE}, UNSEEN: {Verdict.EFFECTIVE, Verdict.NOT_PROVABLE}}.get(cell)
        if right is not None and self.said not in right:
            return f"{self.said}, the table has {cell!r}"
        return ""

    @property
    def _start(self) -> str:
        return "it runs" if self.running else f"exit status {self.status}"


def rows(scope: str, systemd: int, selection: Sequence[str], *, uml: bool) -> Iterator[Row]:
    """Those of a manager, "user" or "system", whose name contains one of the words."""
    table = json.loads(FILE.read_text())
    for number, entry in enumerate(table["rows"]):
        cells = dict(zip(table["columns"], entry["expect"].split(), strict=True))
        special = entry.get("uml", {}) if uml else {}
        for users in (False, True) if scope == "user" else (False,):
            column = f"{scope}{systemd}{'+users' if users else ''}"
            assert column in cells, f"the table knows nothing of systemd {systemd}"
            lines = tuple(entry["lines"])
            aspect = str(entry.get("aspect") or lines[-1].partition("=")[0])
            if cells[column] == NOT_MEASURED:
                continue
            why = str(entry["why"]) if column in special else ""
            cell = str(special.get(column, cells[column]))
            row = Row(number, lines, aspect, cell, users, why)
            if not selection or any(word.lower() in row.name.lower() for word in selection):
                yield row


def about(row: Row, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(f for f in findings if re.split(r"\W", f.aspect, maxsplit=1)[0] == row.aspect)
