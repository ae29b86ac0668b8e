"""Plain text by default; colour and a live line only on a terminal that wants them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
TONES = {
    "ready": "green", "active": "green", "done": "green", "already": "green", "recovered": "green", "ok": "green",
    "starting": "yellow", "stopping": "yellow", "unready": "yellow", "leased": "yellow", "rolled-back": "yellow",
    "degraded": "red", "failed": "red", "wedged": "red", "missing": "red", "crash loop": "red", "invalid": "red",
    "durable": "green", "runtime-only": "yellow", "at-risk": "red", "data-loss": "red", "unreachable": "red",
    "open": "red", "config-error": "red", "down": "red", "applying": "yellow", "outdated": "yellow", "stale": "yellow",
    "stopped": "dim", "asleep": "dim", "unknown": "dim", "idle": "dim", "cancelled": "dim",
}  # fmt: skip


class Terminal:
    """One output stream. `live` says whether a line may be drawn over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        is_terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.live = is_terminal
        self._colour = is_terminal and not os.environ.get("NO_COLOR")

    @property
    def width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def line(self, text: str = "") -> None:
        self._stream.write(self._fitting(text) + "\n")

    def write(self, text: str) -> None:
        self._stream.write(self._fitting(text))
        self._stream.flush()

    def flush(self) -> None:
        self._stream.flush()

    def paint(self, text: str, tone: str) -> str:
        return f"\x1b[{_CODES[tone]}m{text}\x1b[0m" if self._colour and tone and text else text

    def word(self, text: str) -> str:
        """A state in the colour that fits it."""
        return self.paint(text, TONES.get(text, ""))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], *, indent: str = "") -> None:
        """Left-aligned columns; a cell that is a known state is coloured."""
        cells = [[clean(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        self._row(header, widths, indent, ["dim"] * len(header))
        for row in cells:
            self._row(row, widths, indent, [TONES.get(cell, "") for cell in row])

    def _row(self, row: Sequence[str], widths: Sequence[int], indent: str, tones: Sequence[str]) -> None:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        padded[-1] = row[-1]
        self.line((indent + "  ".join(map(self.paint, padded, tones))).rstrip())

    def _fitting(self, text: str) -> str:
        """What the stream's encoding cannot say becomes a question mark, not an error."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return text.encode(encoding, "replace").decode(encoding)


def clean(text: object) -> str:
    """Text of others without control characters: a log line must not steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in str("" if text is None else text))


def error(message: str, hint: str = "") -> None:
    """The one form of an error: "agentctl: cannot X: reason", and below it what to do."""
    lines = [clean(line) for line in message.split("\n")]
    print("agentctl: " + "\n".join(lines), file=sys.stderr)
    if hint:
        print(f"  {clean(hint)}", file=sys.stderr)
