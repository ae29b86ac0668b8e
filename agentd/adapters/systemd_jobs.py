"""Results of systemd's jobs.

A job's JobRemoved can be handled before the coroutine that queued it has seen the reply with the job's path
(always so for a start of a unit that is already active). So results are kept while any queueing call is under way.
Several requests for one unit get the same job: every ticket of a path is resolved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from agentd.errors import AgentdError
from agentd.types import JobResult


class Ticket:
    """One request's hold on a job (the port's Job)."""

    def __init__(self, unit: str, path: str) -> None:
        self._unit = unit
        self.path = path
        self.result: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()

    @property
    def unit(self) -> str:
        return self._unit

    async def wait(self, timeout: float) -> JobResult:
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self.result)
        except TimeoutError as error:
            raise AgentdError(
                "job-timeout", f"cannot wait any longer for the job of {self._unit}: not finished within {timeout:g} s"
            ) from error


class Jobs:
    """Matches JobRemoved signals with tickets."""

    def __init__(self) -> None:
        self._seen: dict[str, JobResult] = {}
        self._waiting: dict[str, list[Ticket]] = {}
        self._queueing = 0

    @property
    def idle(self) -> bool:
        """True when no JobRemoved can concern us: its body need not even be decoded."""
        return not self._queueing and not self._waiting

    @property
    def waiting(self) -> tuple[str, ...]:
        return tuple(self._waiting)

    @contextmanager
    def queueing(self) -> Iterator[None]:
        """Around a call that queues a job and the `ticket()` for its reply."""
        self._queueing += 1
        try:
            yield
        finally:
            self._queueing -= 1
            if not self._queueing:
                self._seen.clear()

    def ticket(self, unit: str, path: str) -> Ticket:
        ticket = Ticket(unit, path)
        if path in self._seen:
            ticket.result.set_result(self._seen[path])
        else:
            self._waiting.setdefault(path, []).append(ticket)
        return ticket

    def removed(self, path: str, result: JobResult) -> None:
        if self._queueing:
            self._seen[path] = result
        for ticket in self._waiting.pop(path, ()):
            if not ticket.result.done():
                ticket.result.set_result(result)

    def lose(self, path: str) -> None:
        """The job ended where we could not see it."""
        self.removed(path, JobResult.LOST)

    def lose_all(self) -> None:
        for path in self.waiting:
            self.lose(path)
        self._seen.clear()
