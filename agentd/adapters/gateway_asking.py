"""Questions to a gateway over plain HTTP/1.1 on loopback, each on a connection of its own, with the time of every
event of a stream."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from agentd.adapters import plain_http
from agentd.adapters.conversation import BrokenOff, Conversation, TooLarge, connected
from agentd.core.gateway.asking import Answer, Question

_HEAD, _MOST = 64 * 1024, 4 * 1024 * 1024
CHAT, MODELS = "/v1/chat/completions", "/v1/models"


class GatewayAsker:
    """`url`: "http://127.0.0.1:4001". The key is in requests alone."""

    def __init__(self, url: str, key: str) -> None:
        where = plain_http.target(url)
        if where is None:
            raise ValueError(f"not a plain address: {url}")
        self._where = where
        self._key = key

    async def ask(self, question: Question, *, timeout: float) -> Answer:
        """Never raises for what the gateway does; `timeout` bounds the whole answer."""
        body: dict[str, Any] = {
            "model": question.model,
            "messages": [{"role": "user", "content": f"#{question.tag} say something"}],
            "stream": question.stream,
        }
        if question.retries is not None:
            body["num_retries"] = question.retries
        if question.tokens:
            body["max_tokens"] = question.tokens
        return await self._talk("POST", CHAT, self._key, body, timeout)

    async def models(self, key: str | None = None, *, timeout: float = 10.0) -> Answer:
        """`key` None: the right one; "": none."""
        return await self._talk("GET", MODELS, self._key if key is None else key, None, timeout)

    async def _talk(self, method: str, path: str, key: str, body: dict[str, Any] | None, timeout: float) -> Answer:
        where = plain_http.Target(self._where.host, self._where.port, path)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        data = None if body is None else json.dumps(body).encode()
        reading = _Reading()
        try:
            async with asyncio.timeout(timeout), connected(where.host, where.port) as connection:
                talk = Conversation(connection)
                await talk.say(plain_http.request(where, method, headers, data))
                await reading.read(talk)
        except TimeoutError:
            reading.broken = f"no whole answer within {timeout:g} s"
        except OSError as error:
            reading.broken = (os.strerror(error.errno) if error.errno else str(error)).lower()
        except (BrokenOff, TooLarge, plain_http.NotHttp, ValueError) as error:
            reading.broken = str(error).lower() or type(error).__name__
        return reading.answer()


class _Reading:
    def __init__(self) -> None:
        self.broken = ""
        self._began = time.monotonic()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = b""
        self._line = b""
        self._stream = False
        self._events: list[float] = []
        self._error = ""
        self._done = False

    def answer(self) -> Answer:
        return Answer(
            self._status,
            self._since(),
            self._body.decode(errors="replace"),
            self._headers,
            tuple(self._events),
            self._error,
            self._done,
            self.broken,
        )

    def _since(self) -> float:
        return time.monotonic() - self._began

    async def read(self, talk: Conversation) -> None:
        first, *lines = (await talk.until(b"\r\n\r\n", _HEAD)).decode("latin-1").split("\r\n")
        if not first.startswith("HTTP/1."):
            raise plain_http.NotHttp
        self._status = int(first.split(" ")[1])
        fields = (line.partition(":") for line in lines)
        self._headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        self._stream = self._headers.get("content-type", "").startswith("text/event-stream")
        if "chunked" in self._headers.get("transfer-encoding", "").lower():
            while size := int((await talk.until(b"\r\n", 8192)).partition(b";")[0], 16):
                self._more(await talk.exactly(size))
                await talk.until(b"\r\n", 8)
        elif "content-length" in self._headers:
            self._more(await talk.exactly(int(self._headers["content-length"])))
        else:
            self._more(await talk.rest(_MOST))

    def _more(self, data: bytes) -> None:
        if len(self._body) + len(data) > _MOST:
            raise TooLarge
        self._body += data
        if not self._stream:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        value = json.loads(data)
        error = value.get("error")
        if isinstance(error, dict):
            self._error = str(error.get("code") or error.get("type") or "error")
        elif any(_content(choice) for choice in value.get("choices") or ()):
            self._events.append(self._since())


def _content(choice: dict[str, Any]) -> str:
    return str((choice.get("delta") or {}).get("content") or choice.get("text") or "")
