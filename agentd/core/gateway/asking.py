"""A question to a gateway, and all that is to be known of its answer. Times are seconds from the question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Question:
    """`tag` goes to the backend in the text, which knows the request by it."""

    model: str
    tag: str
    stream: bool = False
    retries: int | None = None
    """Instead of the gateway's own."""
    tokens: int = 0
    """The most that the answer may have; 0: not said."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 0
    """0 when there was none; `broken` says why."""
    seconds: float = 0.0
    text: str = ""
    """The body; of a stream its events, joined."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    events: tuple[float, ...] = ()
    """When a stream's events with content came."""
    error: str = ""
    """The code of the error event that ended a stream: "408", "504"."""
    done: bool = False
    """A stream ended with [DONE]."""
    broken: str = ""
    """Why the connection gave no whole answer."""

    @property
    def ok(self) -> bool:
        return self.status == 200 and not self.error and not self.broken

    @property
    def words(self) -> str:
        if self.broken:
            return self.broken
        return f"{self.status}, then an error {self.error}" if self.error else str(self.status)
