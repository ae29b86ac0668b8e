"""Watches the models' cgroups every few milliseconds, past systemd and past agentd."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from .stack import PORTS, Stack, unit_of

PERIOD = 0.002


class Watcher:
    """`with Watcher(stack) as seen: ...`; afterwards `seen.check()` fails the test when two models ever ran at once.

    A process that is seen before and after one of another model was there at the same instant: no guess is in it.
    """

    def __init__(self, stack: Stack) -> None:
        self._files = {name: stack.cgroups / unit_of(name) / "cgroup.procs" for name in PORTS}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._last: dict[str, frozenset[int]] = {}
        self.samples = 0
        self.seconds = 0.0
        self.together: list[Mapping[str, frozenset[int]]] = []
        self.starts = dict.fromkeys(PORTS, 0)
        """How often a unit's cgroup was found filled after it had been empty, the first look included."""

    def __enter__(self) -> Watcher:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)

    def check(self) -> None:
        assert not self.together, f"two models at once: {self.together[:3]}"
        assert self.samples > self.seconds / 0.05, f"only {self.samples} looks in {self.seconds:.1f} s prove nothing"

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stop.wait(PERIOD):
            self._look()
            self.seconds = time.monotonic() - begun

    def _look(self) -> None:
        first, *others = self._files
        before = _pids(self._files[first])
        now = {first: before, **{name: _pids(self._files[name]) for name in others}}
        if before and any(now[name] for name in others):
            stayed = before & _pids(self._files[first])
            if stayed:
                self.together.append({**now, first: stayed})
        for name, pids in now.items():
            if pids and not self._last.get(name):
                self.starts[name] += 1
        self._last = now
        self.samples += 1


def _pids(path: Path) -> frozenset[int]:
    try:
        return frozenset(map(int, path.read_text().split()))
    except OSError:
        return frozenset()
