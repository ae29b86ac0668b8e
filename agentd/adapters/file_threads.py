"""Work on files in threads of its own, with a deadline: a dead network mount can hold whoever touches it for ever.

Not the loop's pool: a thread that hangs there would take a place from everybody, and keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from agentd.errors import AgentdError

PATIENCE = 15.0
"""Seconds without a sign of life."""

Result = TypeVar("Result")


class Stopped(Exception):
    """The work was asked to end; whoever asked does not want its result."""


class Pulse:
    """Between long work and who waits for it: the work says that it goes on, the waiter that it shall end."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        self._stop = threading.Event()

    def beat(self) -> None:
        """Called by the work at every step. Raises Stopped."""
        self.at = time.monotonic()
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        self._stop.set()


class FileThreads:
    """Raises AgentdError("file-stuck") when the kernel does not answer, and at once while it still holds an earlier
    thread, so that a check that comes again and again does not gather them."""

    def __init__(self) -> None:
        self._stuck: list[threading.Thread] = []

    async def run(
        self, doing: str, function: Callable[[], Result], *, pulse: Pulse | None = None, patience: float = PATIENCE
    ) -> Result:
        """`doing` follows "cannot" in the error. `patience` counts from the last beat of `pulse`, or from the start.

        Cancelling lets a function without a pulse go on. One with a pulse is stopped, and has tidied up when this
        returns.
        """
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if self._stuck:
            raise AgentdError("file-stuck", f"cannot {doing}: an earlier access to files still hangs in the kernel")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        life = pulse or Pulse()
        thread = threading.Thread(target=answer_from, args=(function, answer, loop), name="files", daemon=True)
        thread.start()
        try:
            if not await _answered(answer, life, patience):
                life.stop()
                self._stuck.append(thread)
                raise AgentdError("file-stuck", f"cannot {doing}: the kernel did not answer within {patience:g} s")
        except asyncio.CancelledError:
            if pulse is not None:
                pulse.stop()
                await _answered(answer, life, patience)
            raise
        finally:
            if answer.done():
                answer.exception()  # Whoever was cancelled does not look at it.
            else:
                answer.cancel()
        thread.join()  # It has handed over its result and ends now.
        return answer.result()


async def _answered(answer: asyncio.Future[Result], life: Pulse, patience: float) -> bool:
    """False: nothing was heard for too long."""
    while not answer.done():
        left = life.at + patience - time.monotonic()
        if left <= 0:
            return False
        await asyncio.wait({answer}, timeout=left)
    return True


def answer_from(
    function: Callable[[], Result], answer: asyncio.Future[Result], loop: asyncio.AbstractEventLoop
) -> None:
    """In a thread: what the function returns or raises becomes the answer in the loop."""

    def hand_over(result: Result | None, problem: BaseException | None) -> None:
        if answer.done():  # Nobody waits for it any more.
            return
        if problem is not None:
            answer.set_exception(problem)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    result: Result | None = None
    problem: BaseException | None = None
    try:
        result = function()
    except BaseException as error:
        problem = error
    with suppress(RuntimeError):  # The loop is closed.
        loop.call_soon_threadsafe(hand_over, result, problem)
