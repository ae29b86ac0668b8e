"""Where a proof is measured: the outside world that it needs as Protocols, and what every scenario uses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentd.core.gateway.asking import Answer, Question
from agentd.core.gateway.model import Policy
from agentd.core.gateway.proof_catalog import PREFIX, Rig
from agentd.ports_gateway import ScratchProxies

SLACK = 1.5
"""Seconds that a loaded machine may add to what a timeout promises; the promises are told apart by more."""
EARLY = 0.3
"""Seconds that a timer may be early: clients of LiteLLM's round theirs."""


class Hit(Protocol):
    """A request at the backend, times by time.monotonic(); `left` is 0 where LiteLLM waited for the end."""

    @property
    def model(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def said(self) -> float: ...
    @property
    def left(self) -> float: ...


class Backend(Protocol):
    def behave(self, model: str, *, tag: str = "", **values: Any) -> None: ...
    def hits(self, model: str = "", *, tag: str = "") -> Sequence[Hit]: ...
    async def wait_hits(self, count: int, model: str = "", *, tag: str = "") -> Sequence[Hit]: ...


class Asker(Protocol):
    async def ask(self, question: Question, *, timeout: float) -> Answer: ...
    async def models(self, key: str | None = None, *, timeout: float = 10.0) -> Answer: ...


class Bench(Protocol):
    """What there is for one proof. Files that it writes are removed with it."""

    @property
    def url(self) -> str: ...
    @property
    def refused(self) -> str: ...
    @property
    def key(self) -> str:
        """The gateway's, made for this proof."""
        ...

    @property
    def backend(self) -> Backend: ...
    @property
    def proxies(self) -> ScratchProxies: ...
    def environment(self, policy: Policy) -> Mapping[str, str]: ...
    async def write(self, text: str) -> str: ...
    def asker(self, url: str) -> Asker: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario found for the promise `name`."""

    name: str
    measured: str
    ok: bool
    detail: str = ""


@dataclass(slots=True)
class Lab:
    rig: Rig
    backend: Backend
    asker: Asker
    expected: tuple[str, ...]
    now: Callable[[], float]
    """Seconds since the epoch: a clock minute is LiteLLM's window."""
    few: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """For scenarios whose requests must be quick, one after the other: a LiteLLM with many at once is slow."""
    burst: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(4))
    """For requests that come in hundreds."""
    _tags: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def policy(self) -> Policy:
        return self.rig.policy

    @property
    def patience(self) -> float:
        """Longer than any answer may take."""
        return self.policy.answer_timeout * 1.2 + 30.0

    def tag(self) -> str:
        return f"t{next(self._tags)}"

    async def ask(self, model: str, *, tag: str = "", retries: int | None = 0, stream: bool = False) -> Answer:
        """`model` without the prefix of the proof's own. Without retries where not said."""
        question = Question(PREFIX + model, tag or self.tag(), stream=stream, retries=retries)
        return await self.asker.ask(question, timeout=self.patience)

    def behave(self, model: str, **values: Any) -> None:
        self.backend.behave(PREFIX + model, **values)

    def hits(self, model: str = "", tag: str = "") -> Sequence[Hit]:
        return self.backend.hits(PREFIX + model if model else "", tag=tag)

    def way(self, tag: str) -> list[str]:
        """The models that a request came by, each once for every stay."""
        return [name.removeprefix(PREFIX) for name, _ in itertools.groupby(hit.model for hit in self.hits(tag=tag))]


Run = Callable[[Lab], Awaitable[Sequence[Result]]]


@dataclass(frozen=True, slots=True)
class Job:
    """One scenario, and the promises that it measures."""

    names: tuple[str, ...]
    run: Run


def between(low: float, seconds: float, high: float) -> bool:
    return low <= seconds <= high
