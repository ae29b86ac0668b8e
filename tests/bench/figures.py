"""Samples, their summary, and the tables that are printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HEADER = ("", "n", "median", "min", "p90", "ratio")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing; milliseconds unless `unit` says otherwise. `compare` False leaves the ratio out."""

    name: str
    samples: tuple[float, ...]
    unit: str = "ms"
    compare: bool = True

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p90(self) -> float:
        ordered = sorted(self.samples)
        return ordered[math.ceil(0.9 * len(ordered)) - 1]

    def plain(self) -> dict[str, Any]:
        summary = {"median": self.median, "min": min(self.samples), "p90": self.p90}
        return {"name": self.name, "unit": self.unit, "n": len(self.samples), **summary, "samples": self.samples}


@dataclass(frozen=True, slots=True)
class Goal:
    """`value` shall not be above `limit`, or not below it where more is better."""

    text: str
    value: float
    limit: float
    unit: str = "ms"

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def line(self) -> str:
        word = "met   " if self.met else "MISSED"
        return f"  {word}  {self.text}: {amount(self.value)} {self.unit} (goal {amount(self.limit)})"

    def plain(self) -> dict[str, Any]:
        return {"goal": self.text, "value": self.value, "limit": self.limit, "unit": self.unit, "met": self.met}


@dataclass(frozen=True, slots=True)
class Section:
    """What one part of the bench found; ratios are to the first row."""

    title: str
    rows: Sequence[Row]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    load: str = ""

    def text(self) -> str:
        lines = [f"\n{self.title}" + (f"   [load average {self.load}]" if self.load else "")]
        lines += table([HEADER, *self._cells()])
        lines += [goal.line() for goal in self.goals]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _cells(self) -> list[tuple[str, ...]]:
        base = self.rows[0].median if self.rows else 0.0
        return [
            (
                row.name,
                str(len(row.samples)),
                f"{amount(row.median)} {row.unit}",
                amount(min(row.samples)),
                amount(row.p90),
                f"{row.median / base:.2f}" if base and row.compare else "",
            )
            for row in self.rows
        ]

    def plain(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "load_average": self.load,
            "rows": [row.plain() for row in self.rows],
            "goals": [goal.plain() for goal in self.goals],
            "notes": list(self.notes),
        }


def amount(value: float) -> str:
    """Three significant digits, no exponent."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  " + row[0].ljust(widths[0]) + "".join("  " + c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
