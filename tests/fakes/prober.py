"""Servers as functions: a handler answers for a base URL; where there is none, the connection is refused."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agentd.core.addresses import split_http_socket
from agentd.errors import AgentdError
from agentd.ports import HttpAnswer


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    path: str
    """Path with the query string."""
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None


Reply = HttpAnswer | float | None
"""An answer; a number: seconds of silence before trying again; None: the connection is refused."""
Handler = Callable[[Request], Reply]


def answer(status: int = 200, body: Any = b"") -> HttpAnswer:
    """`body` as bytes, text, or anything that JSON can carry."""
    if isinstance(body, str):
        body = body.encode()
    elif not isinstance(body, bytes):
        body = jsonlib.dumps(body).encode()
    return HttpAnswer(status, body, 0.001)


class FakeProber:
    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        """Base URL -> handler."""
        self.ports: set[int] = set()
        """TCP ports that accept, beside those of the handlers."""
        self.redis: dict[str, str] = {}
        """Redis URL -> "" (answers PONG) or the reason of the failure."""
        self.commands: dict[tuple[str, ...], int | float] = {}
        """Command -> exit status; a float: seconds that it runs, ending well."""
        self.requests: list[Request] = []

    def serve(self, base_url: str, handler: Handler) -> None:
        self.handlers[base_url.rstrip("/")] = handler

    def _handler(self, url: str) -> Handler | None:
        fits = [base for base in self.handlers if url == base or url.startswith(base + "/")]
        return self.handlers[max(fits, key=len)] if fits else None

    async def http(
        self,
        url: str,
        *,
        timeout: float,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        json: object | None = None,
    ) -> HttpAnswer:
        parts = urlsplit(url)
        unix = split_http_socket(url)
        path = unix[1] if unix is not None else (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = Request(method, url, path, dict(headers or {}), json)
        self.requests.append(request)
        handler = self._handler(url)
        await asyncio.sleep(0.001)
        try:
            async with asyncio.timeout(timeout):
                reply = handler(request) if handler else None
                while handler and isinstance(reply, (int, float)):
                    await asyncio.sleep(reply)
                    reply = handler(request)
        except TimeoutError:
            raise AgentdError("probe-timeout", f"cannot read {url}: no answer within {timeout:g} s") from None
        if reply is None:
            raise AgentdError("probe-failed", f"cannot connect to {url}: connection refused")
        assert isinstance(reply, HttpAnswer)
        return reply

    async def tcp(self, host: str, port: int, *, timeout: float) -> None:
        await asyncio.sleep(0)
        bases = [base for base in self.handlers if urlsplit(base).port == port]
        if port in self.ports:
            return
        for base in bases:
            if self.handlers[base](Request("CONNECT", base, "")) is not None:
                return
        raise AgentdError("probe-failed", f"cannot connect to {host}:{port}: connection refused")

    async def redis_ping(self, url: str, *, timeout: float) -> None:
        await asyncio.sleep(0)
        reason = self.redis.get(url, "connection refused")
        if reason:
            raise AgentdError("probe-failed", f"cannot ping redis: {reason}")

    async def exec(self, argv: Sequence[str], *, timeout: float) -> None:
        await asyncio.sleep(0)
        result = self.commands.get(tuple(argv))
        if result is None:
            raise AgentdError("probe-failed", f"cannot run {argv[0]}: no such file or directory")
        if isinstance(result, float):
            await asyncio.sleep(min(result, timeout))
            if result > timeout:
                raise AgentdError("probe-timeout", f"cannot wait for {argv[0]}: still running after {timeout:g} s")
        elif result != 0:
            raise AgentdError("probe-failed", f"{argv[0]} exited with status {result}")
