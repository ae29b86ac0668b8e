"""Server-sent events: bounded, with keep-alive comments, gone at once when the client or the daemon goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from aiohttp import web

from agentd.api.operations import Operations
from agentd.errors import AgentdError
from agentd.wire import encode, problem

T = TypeVar("T")

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"event: done\ndata: {}\n\n"
MAX_STREAMS = 64
WRITE_TIMEOUT = 30.0
"""A client that does not read for so long is dropped."""
BACKLOG = 1000


def frame(value: object, *, event_id: int | None = None) -> bytes:
    head = b"" if event_id is None else b"id: %d\n" % event_id
    return head + b"data: " + encode(value) + b"\n\n"


async def change_frames(ops: Operations, change_id: str) -> AsyncGenerator[bytes, None]:
    """The whole change at every news of it, then `done`; a stream without `done` was cut off, and one may ask again."""
    async with aclosing(ops.follow_change(change_id)) as news:
        async for change in news:
            yield frame(change)
            if change.finished is not None:
                yield DONE
                return


async def event_frames(ops: Operations, limit: int, after: int) -> AsyncGenerator[bytes, None]:
    """The history after `after`, then what happens. The live feed only wakes us: the numbers say what is to be sent,
    so nothing is doubled, and nothing is lost that the history still holds."""
    last = after
    async with aclosing(ops.follow_events()) as news:
        waiting = asyncio.ensure_future(_next(news))
        try:
            await asyncio.sleep(0)  # the feed is subscribed before the history is read
            found = ops.events(limit, after) if limit else ()
            while True:
                for event in found:
                    last = event.seq
                    yield frame(event, event_id=last)
                live = await waiting
                if live is None:
                    return
                waiting = asyncio.ensure_future(_next(news))
                last = last or live.seq - 1
                found = [e for e in (*ops.events(BACKLOG, last), live) if e.seq > last]
                found = sorted({e.seq: e for e in found}.values(), key=lambda e: e.seq)
        finally:
            await _end(waiting)


class Streams:
    """The open streams of one server; `close` ends them all."""

    def __init__(self, keep_alive: float) -> None:
        self._keep_alive = keep_alive
        self._closing = asyncio.Event()
        self.open = 0

    def close(self) -> None:
        self._closing.set()

    async def serve(self, request: web.Request, frames: AsyncGenerator[bytes, None]) -> web.StreamResponse:
        if self._closing.is_set():
            raise AgentdError("stopping", "agentd is stopping")
        if self.open >= MAX_STREAMS:
            raise AgentdError("too-many-streams", f"{MAX_STREAMS} event streams are open already")
        response = web.StreamResponse(headers=HEADERS)
        self.open += 1
        try:
            async with aclosing(frames):
                await response.prepare(request)
                # A client that has gone is no error; only here, so that nothing else is hidden.
                with contextlib.suppress(ConnectionResetError, TimeoutError):
                    await self._pump(response, frames)
        finally:
            self.open -= 1
        return response

    async def _pump(self, response: web.StreamResponse, frames: AsyncGenerator[bytes, None]) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        waiting = asyncio.ensure_future(_next(frames))
        try:
            while True:
                await asyncio.wait({waiting, closing}, timeout=self._keep_alive, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    chunk = _result(waiting)
                    if chunk is None:
                        return
                    waiting = asyncio.ensure_future(_next(frames))
                elif closing.done():
                    return
                else:
                    chunk = KEEP_ALIVE
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await response.write(chunk)
        finally:
            await _end(waiting)
            await _end(closing)


def _result(task: asyncio.Task[bytes | None]) -> bytes | None:
    """What the source yielded; its failure, too late for a status, becomes an event of its own."""
    try:
        return task.result()
    except AgentdError as error:
        body = problem(500, error.kind, error.message, hint=error.hint)
        return b"event: error\ndata: " + encode(body) + b"\n\n"


async def _next(source: AsyncGenerator[T, None]) -> T | None:
    """The next item, or None at the end; a coroutine, since tasks take no bare awaitable."""
    return await anext(source, None)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
