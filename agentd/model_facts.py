"""What agentd has learned of a model on this machine; kept in the journal, shown by `agentctl models show`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SleepFacts:
    """One level of vLLM's sleep mode, as measured. Seconds and bytes; 0 where nothing was measured yet."""

    level: int
    sleep_seconds: float = 0.0
    wake_seconds: float = 0.0
    freed: int = 0
    """GPU memory that the sleep gave back, over all GPUs of the model."""
    residual: int = 0
    """GPU memory that the sleeper still holds."""
    host_bytes: int = 0
    """Main memory that went with the first sleep (level 1 keeps the weights there, pinned)."""
    checked: float = 0.0
    """Wall-clock second of the last `sleep-check`; 0: never."""
    failures: int = 0
    """Sleeps or wakes in a row that had to end in a stop or a cold start."""
    broken: str = ""
    """Why this level is not used any more, "" while it is: garbage after wake, memory that was kept, an error."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`fingerprint` names what was measured: facts of another command line, path or vLLM version do not count."""

    name: str
    fingerprint: str = ""
    version: str = ""
    """vLLM's own, from /version."""
    admin: tuple[str, ...] = ()
    """Admin endpoints that answer: of "pause", "sleep", "load"."""
    vram: int = 0
    """GPU memory per GPU that it held when it served, the largest of its GPUs; 0: not known."""
    load_seconds: float = 0.0
    """Moving average of a cold start, from START to an answer."""
    phases: dict[str, float] = field(default_factory=dict)
    """Loading phase -> moving average of its seconds; see core.loading."""
    canary: str = ""
    """What the canary prompt came back as after a cold start, at temperature 0: what a woken model must say again."""
    sleep: tuple[SleepFacts, ...] = ()

    def level(self, level: int) -> SleepFacts:
        return next((one for one in self.sleep if one.level == level), SleepFacts(level))


@dataclass(frozen=True, slots=True)
class ModelNow:
    """A model at the last look: where it is, and what is known of it."""

    name: str
    slot: str
    state: str
    """"resident", "asleep" or "stopped", by its slot's own account."""
    level: int = 0
    """At which it sleeps; 0 for one that does not."""
    facts: ModelFacts = field(default_factory=lambda: ModelFacts(""))
    off: str = ""
    """Why it may not be resident though it is configured; "" when it may."""

    @property
    def wake_seconds(self) -> float:
        """From the level at which it sleeps, or would; 0 where that is not known, or the level not used any more."""
        known = self.facts.level(self.level or 1)
        return 0.0 if known.broken else known.wake_seconds
