"""Requests in flight: how many, and what becomes of them while the process drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLOSE = (b"connection", b"close")


class Flight:
    """The state that the parts share; all of it belongs to the event loop."""

    def __init__(self) -> None:
        self.requests = 0
        self.shared = False
        """Accepts on the public socket."""
        self.draining = False
        self.ends = float("inf")
        """time.monotonic() at which what is still in flight is told to come back; known once it drains."""
        self._cuts: set[Callable[[], None]] = set()

    def drain(self, seconds: float) -> None:
        """From now on every answer closes its connection; after `seconds` the rest is told to come back."""
        self.draining = True
        self.ends = time.monotonic() + seconds
        asyncio.get_running_loop().call_later(seconds, self._cut)

    def on_cut(self, act: Callable[[], None]) -> Callable[[], None]:
        """`act` runs when the time to drain is over; returns what takes it back."""
        self._cuts.add(act)
        return lambda: self._cuts.discard(act)

    def _cut(self) -> None:
        for act in tuple(self._cuts):
            act()


note: ContextVar[dict[str, int] | None] = ContextVar("agentd_note", default=None)
"""What a request's answer is to say besides: "retry_after". Some of LiteLLM's routes drop the headers of an error."""


class Counted:
    """ASGI: counts requests, and says `connection: close` in answers that begin while the process drains, so that a
    client with a kept-alive connection opens a new one instead of meeting one that was just closed."""

    def __init__(self, app: App, flight: Flight) -> None:
        self._app = app
        self._flight = flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        said: dict[str, int] = {}

        async def closing(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if self._flight.draining:
                    headers = [*_without(headers, CLOSE[0]), CLOSE]
                if message["status"] == 503 and "retry_after" in said:
                    pause = str(said["retry_after"]).encode()
                    headers = [*_without(headers, b"retry-after"), (b"retry-after", pause)]
                message = {**message, "headers": headers}
            await send(message)

        self._flight.requests += 1
        # Not taken back: the task is the request's own, or at least the next request sets it anew.
        note.set(said)
        try:
            await self._app(scope, receive, closing)
        finally:
            self._flight.requests -= 1


def _without(headers: list[Any], name: bytes) -> list[Any]:
    return [pair for pair in headers if pair[0].lower() != name]
