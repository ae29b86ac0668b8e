"""A change as it goes: a line per finished phase with its time; on a terminal, a live line for the one that runs."""

from __future__ import annotations

from typing import Any

from agentd.cli.durations import span
from agentd.cli.terminal import Terminal, clean

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PHASE_WIDTH = 10
REDIS = {
    "redis-enforce": "enforcing persistence",
    "redis-drill": "trying the next start on a copy",
    "redis-backup": "backing up",
}

Change = dict[str, Any]


class Progress:
    """Feed it every state of the change and, on a terminal, the time; it writes each phase once."""

    def __init__(self, out: Terminal) -> None:
        self._out = out
        self._printed = 0
        self._headed = False
        self._drawn = False
        self._frame = 0

    def update(self, change: Change, now: float) -> None:
        if not self._headed:
            self._headed = True
            self._line(headline(change))
        for index, phase in enumerate(change["phases"]):
            if index >= self._printed and phase["seconds"] is not None:
                self._line(phase_line(phase))
                self._printed = index + 1
        self.tick(change, now)

    def tick(self, change: Change, now: float) -> None:
        """Draw the running phase with the time it has taken so far."""
        running = next((p for p in reversed(change["phases"]) if p["seconds"] is None), None)
        if not self._out.live or change["finished"] is not None or running is None:
            return
        self._frame += 1
        text = (
            f"{FRAMES[self._frame % len(FRAMES)]} {running['phase']:<{PHASE_WIDTH}}  {span(now - running['started'])}"
        )
        if running["detail"]:
            text = f"{text}  {clean(running['detail'])}"
        self._out.write(f"\r{text[: self._out.width - 1]}\x1b[K")
        self._drawn = True

    def close(self) -> None:
        """Take the live line away, so that what follows starts on a clean one."""
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._drawn = False

    def _line(self, text: str) -> None:
        self.close()
        self._out.line(text)
        self._out.flush()


def headline(change: Change) -> str:
    kind = str(change["kind"])
    if kind == "switch":
        what = f"switching {change['previous'] or 'an empty slot'} to {change['target']}"
    elif kind.startswith("redis-"):
        name = change["target"] or change["slot"]
        return clean(REDIS.get(kind, kind) + (f": {name}" if name else "") + f" (change {change['id']})")
    else:
        what = {"unload": "unloading", "lease": "lending out", "dropins": "installing drop-ins"}.get(kind, kind)
        what += f" {change['previous']}" if change["previous"] and kind == "unload" else ""
        what = f"checking the sleep of {change['target']}" if kind == "sleep-check" else what
    where = f"slot {change['slot']}, " if change["slot"] else ""
    return clean(f"{what} ({where}change {change['id']})")


def phase_line(phase: dict[str, Any]) -> str:
    text = f"  {phase['phase']:<{PHASE_WIDTH}}  {span(phase['seconds'] or 0.0):>9}"
    detail = phase["detail"] or ("" if phase["result"] in ("", "pass") else phase["result"])
    return f"{text}  {clean(detail)}".rstrip()


def running_line(phase: dict[str, Any], now: float) -> str:
    """The phase that runs, for who looks once."""
    text = f"  {phase['phase']:<{PHASE_WIDTH}}  running for {span(now - phase['started'])}"
    return f"{text}: {clean(phase['detail'])}" if phase["detail"] else text


def doing(change: dict[str, Any]) -> str:
    """What a change that runs says of its phase."""
    last = change["phases"][-1] if change["phases"] else None
    return clean(last["detail"]) if last is not None and last["seconds"] is None else ""
