"""How far a model server has come with loading: its log lines become phases, a share, and the time that is left. Pure.

The texts are those of vLLM 0.11 to 0.33. A line that is not known changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class LoadPhase(StrEnum):
    """What a server that does not answer yet is doing; for a person to read."""

    STARTING = "starting"
    WEIGHTS = "loading weights"
    COMPILING = "compiling"
    PROFILING = "profiling"
    CAPTURING = "capturing graphs"
    SERVER = "starting server"


RANK: Mapping[str, int] = {
    LoadPhase.STARTING: 0,
    LoadPhase.WEIGHTS: 1,
    # On a GPU the profiling run compiles, on the CPU what follows it does.
    LoadPhase.COMPILING: 2,
    LoadPhase.PROFILING: 2,
    LoadPhase.CAPTURING: 3,
    LoadPhase.SERVER: 4,
}

_MARKS: tuple[tuple[LoadPhase, re.Pattern[str]], ...] = tuple(
    (phase, re.compile(text))
    for phase, text in (
        (
            LoadPhase.WEIGHTS,
            r"Starting to load model |Loading model from scratch|Loading weights took"
            r"|(?:Loading|Multi-thread loading) [^:]{0,60}(?:shards|Streamer|weights)[^:]{0,60}:\s+\d+%"
            r"|Prefetching checkpoint files: \d+%",
        ),
        (
            LoadPhase.COMPILING,
            r"Starting torch\.compile|for vLLM's torch\.compile|Dynamo bytecode transform time"
            r"|Start compiling function|Compiling a graph for |Directly load |Compile and warming up model for size"
            r"|Warming up model for the compilation",
        ),
        (
            LoadPhase.PROFILING,
            r"Model loading took|torch\.compile takes|torch\.compile took|[Pp]rofiling/warmup run|Warming up done"
            r"|Profiling CUDA graph memory|Memory profiling takes|Available KV cache memory|CPU KV cache size",
        ),
        (LoadPhase.CAPTURING, r"GPU KV cache size|# GPU blocks:|Capturing CUDA graph"),
        (
            LoadPhase.SERVER,
            r"init engine \(profile|Starting vLLM (?:API )?server|Available routes are|Application startup complete"
            r"|Started server process",
        ),
    )
)
_SHARE = re.compile(r"\b(\d{1,3})% Completed|Prefetching checkpoint files: (\d{1,3})%|(\d{1,3})%\|")


def mark(line: str) -> tuple[LoadPhase | None, float | None]:
    """The phase that a line tells of and how far it has come, from 0 to 1; None where the line does not say."""
    phase = next((name for name, pattern in _MARKS if pattern.search(line)), None)
    found = _SHARE.findall(line) if phase in (LoadPhase.WEIGHTS, LoadPhase.CAPTURING) else []
    # A bar that draws over itself is one line in the end, and its last state is what counts.
    share = min(100, int(next(filter(None, found[-1])))) / 100 if found else None
    return phase, share


@dataclass(slots=True)
class Loading:
    """One load. Times are monotonic seconds; `learned`: phase -> seconds that it usually takes."""

    begun: float
    learned: Mapping[str, float] = field(default_factory=dict)
    usual: float = 0.0
    """Seconds that it takes in all; counts where no phase is known."""
    phase: LoadPhase = LoadPhase.STARTING
    since: float = 0.0
    """When `phase` began."""
    share: float | None = None
    marks: int = 0
    """Lines that said something."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of the phases that are over."""

    def __post_init__(self) -> None:
        self.since = self.since or self.begun

    def feed(self, line: str, now: float) -> bool:
        """Take a line in; True when it told of a phase. Several workers talk at once: it never goes back."""
        phase, share = mark(line)
        if phase is None or RANK[phase] < RANK[self.phase]:
            return False
        self.marks += 1
        if phase is not self.phase:
            self._close(now)
            self.phase, self.since, self.share = phase, now, None
        if share is not None:
            self.share = share
        return True

    def ended(self, now: float) -> Mapping[str, float]:
        """Seconds per phase, the last one included."""
        self._close(now)
        self.since = now
        return self.seconds

    def left(self, now: float) -> float | None:
        """Seconds until it answers, by what earlier loads took; None when nothing was learned."""
        if not self.learned:
            return max(0.0, self.usual - (now - self.begun)) if self.usual else None
        return self._of_this(now) + sum(self._of_later(name, usual) for name, usual in self.learned.items())

    def told(self, now: float) -> str:
        """ "loading weights 60 %, about 12 s left"."""
        text = self.phase.value
        if self.share is not None and 0 < self.share < 1:
            text += f" {100 * self.share:.0f} %"
        left = self.left(now)
        if left is None:
            return text
        usual = self.learned.get(self.phase, 0.0) if self.learned else self.usual
        if left < 1 and now - self.since > usual + LATE:
            return f"{text}, usually over by now"
        return f"{text}, {_about(max(1.0, left))} left"

    def _of_this(self, now: float) -> float:
        """What is left of the present phase. The further it is, the more its own pace says than earlier ones."""
        spent = now - self.since
        before = self.seconds.get(self.phase, 0.0)
        usual = max(0.0, self.learned.get(self.phase, 0.0) - before)
        if not self.share:
            return max(0.0, usual - spent)
        pace = spent * (1 - self.share) / self.share
        return self.share * pace + (1 - self.share) * usual * (1 - self.share)

    def _of_later(self, name: str, usual: float) -> float:
        rank = RANK.get(name, -1)
        if name == self.phase or rank < RANK[self.phase]:
            return 0.0
        return max(0.0, usual - self.seconds.get(name, 0.0))

    def _close(self, now: float) -> None:
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + max(0.0, now - self.since)


def _about(seconds: float) -> str:
    """A guess, no finer than it is good for."""
    if seconds < 20:
        return f"about {round(seconds)} s"
    return f"about {round(seconds / 5) * 5} s" if seconds < 120 else f"about {round(seconds / 60)} min"


LATE = 5.0
"""Seconds beyond the usual that are no news."""
NEWEST = 0.5
"""Share of the newest load in the moving averages: a cache that is warm now stays warm."""
_NOTHING = 0.05


def averaged(known: Mapping[str, float], seconds: Mapping[str, float]) -> dict[str, float]:
    """What is known of the phases after one more load; a phase that did not come fades away."""
    names = [str(name) for name in LoadPhase if name in known or name in seconds]
    new = {name: average(known.get(name), seconds.get(name, 0.0)) if known else seconds[name] for name in names}
    return {name: value for name, value in new.items() if value >= _NOTHING}


def average(known: float | None, newest: float) -> float:
    """`known` None: a phase that there was not before, such as a compilation whose cache was deleted."""
    return (known or 0.0) + NEWEST * (newest - (known or 0.0))


BUSY = 0.01
"""Share of one core below which a process counts as idle: a server that waits still turns over."""
MOVED = 1024**2
"""Bytes of GPU memory that count as a change."""


@dataclass(slots=True)
class Life:
    """Whether a load still does something: lines in its log, CPU time, GPU memory.

    Without the CPU time nothing is said: a compilation is silent for half an hour, and leaves the GPU alone.
    """

    last: float
    """Monotonic second of the last sign of life."""
    _lines: int = 0
    _cpu: tuple[float, float] | None = None
    """When it was read, and seconds used."""
    _gpu: int | None = None

    def still(self, now: float, *, lines: int, cpu: float, gpu: int | None) -> float:
        """Seconds without a sign of life. `lines`: how many there were so far; `cpu` 0 and `gpu` None: not known."""
        alive = cpu <= 0 or self._cpu is None or lines != self._lines
        if self._cpu is not None and cpu - self._cpu[1] >= BUSY * (now - self._cpu[0]):
            alive = True
        if gpu is not None and (self._gpu is None or abs(gpu - self._gpu) >= MOVED):
            alive, self._gpu = True, gpu
        self._lines, self._cpu = lines, (now, cpu)
        if alive:
            self.last = now
        return now - self.last
