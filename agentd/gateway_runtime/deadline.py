"""ASGI: bounds a whole answer, with all retries and fallbacks behind it, streams included.

LiteLLM has no such limit: its timeouts are for one try, and for the silence within a stream.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import MutableMapping
from typing import Any

from .flight import App, Flight, Receive, Scope, Send

_MODEL_ROUTES = re.compile(
    r"[/:](?:completions|embeddings|responses|messages|moderations|rerank|generations|edits|variations|transcriptions"
    r"|translations|speech|ocr|search|generateContent|streamGenerateContent)/?$"
)
_FAREWELL = 5.0
"""Seconds for a client to take the last words; then the connection is closed."""


def bounded(scope: Scope) -> bool:
    """Requests that a model answers; not health, listings, management, websockets."""
    return scope["type"] == "http" and scope["method"] == "POST" and bool(_MODEL_ROUTES.search(scope["path"]))


class Deadline:
    """`limit` in seconds; 0: none, then only the end of a drain ends an answer."""

    def __init__(self, app: App, flight: Flight, limit: float) -> None:
        self._app = app
        self._flight = flight
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not bounded(scope):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        work = asyncio.ensure_future(self._app(scope, receive, answer.pass_on))
        over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        forget = self._flight.on_cut(lambda: _end(over, "restart"))
        timer = asyncio.get_running_loop().call_later(self._limit, _end, over, "limit") if self._limit > 0 else None
        try:
            both: set[asyncio.Future[Any]] = {work, over}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                answer.closed = True
                work.cancel()
                work.add_done_callback(_seen)
                await _within(_FAREWELL, answer.end(scope["path"], *self._words(over.result())))
                return
            work.result()
        finally:
            forget()
            over.cancel()
            if timer is not None:
                timer.cancel()
            if not work.done():
                work.cancel()

    def _words(self, why: str) -> tuple[int, str]:
        if why == "limit":
            return 504, f"the whole answer took longer than {self._limit:g} s, the limit of this gateway"
        return 503, "the gateway restarts, and this answer took longer than it could wait: try again"


class _Answer:
    """What has been sent of the answer. Once `closed`, nothing more of the app's gets through."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._events = False
        self._tail = b"\n\n"
        self._complete = False
        self.closed = False

    async def pass_on(self, message: MutableMapping[str, Any]) -> None:
        if self.closed:
            raise asyncio.CancelledError
        if message["type"] == "http.response.start":
            self._started = True
            self._events = any(
                name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message.get("headers", ())
            )
        elif message["type"] == "http.response.body":
            self._tail = (self._tail + message.get("body", b""))[-2:]
            self._complete = not message.get("more_body", False)
        await self._send(message)

    async def end(self, path: str, status: int, text: str) -> None:
        """The error, in the form that the rest of the answer has. A started answer that is no stream of events cannot
        say it: it stays incomplete, and the server closes the connection."""
        error = {"message": text, "type": "timeout_error" if status == 504 else "service_unavailable"}
        if not self._started:
            data = json.dumps({"error": {**error, "param": None, "code": str(status)}}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
            if status == 503:
                headers.append((b"retry-after", b"1"))
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": data})
        elif self._events and not self._complete:
            gap = b"" if self._tail == b"\n\n" else b"\n\n"
            await self._send({"type": "http.response.body", "body": gap + _event(path, error, status)})


def _event(path: str, error: dict[str, str], status: int) -> bytes:
    if path.rstrip("/").endswith("/messages"):
        return f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n".encode()
    body = json.dumps({"error": {**error, "param": None, "code": str(status)}})
    return f"data: {body}\n\ndata: [DONE]\n\n".encode()


def _end(over: asyncio.Future[str], why: str) -> None:
    if not over.done():
        over.set_result(why)


def _seen(work: asyncio.Future[None]) -> None:
    """Takes what the cancelled work raised: nobody waits for it."""
    if not work.cancelled():
        work.exception()


async def _within(seconds: float, words: Any) -> None:
    task = asyncio.ensure_future(words)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        task.result()
    else:
        task.cancel()
