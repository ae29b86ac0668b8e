"""One request to the stand-in backend: what is to happen to it, what did, and the answer in between."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, fields

from agentd.sandbox.standins import backend_answers as answers


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What happens to a request; as it stands here, all is well."""

    fail: int = 0
    """This status instead of an answer."""
    code: str = ""
    """OpenAI's code of that error, "context_length_exceeded" with its text."""
    retry_after: float = 0.0
    """Sent with a failure as Retry-After."""
    hang: str = ""
    """"answer": never a byte. "chunk": a stream's head, and never a chunk."""
    stall_after: int = -1
    """A stream says so many chunks and then nothing more."""
    every: float = 0.0
    """Seconds before each chunk of a stream, and before a whole answer."""
    tokens: int = 3
    """Of the answer; a stream says one with each chunk."""
    prompt_tokens: int = 5
    rate: int = 0
    """Requests that pass in a minute; 429 beyond."""


WELL = Behaviour()
FIELDS = {field.name for field in fields(Behaviour)}


@dataclass(slots=True)
class Hit:
    """A request that came in. Times by time.monotonic()."""

    model: str
    tag: str
    path: str
    stream: bool
    at: float
    said: float = 0.0
    """When the last byte went out."""
    left: float = 0.0
    """When the other side gave up waiting; 0 when it did not."""
    status: int = 0


class Answer:
    def __init__(self, hit: Hit, how: Behaviour, gone: asyncio.Future[bytes], writer: asyncio.StreamWriter) -> None:
        self._hit = hit
        self._how = how
        self._gone = gone
        """Done when the other side has closed the connection: it never speaks before it was answered."""
        self._writer = writer

    async def give(self, kind: str, *, usage: bool) -> bool:
        """True when the connection can go on."""
        how, hit = self._how, self._hit
        if how.hang == "answer":
            return await self._still(None)
        if how.fail:
            hit.status = how.fail
            return await self._say(answers.failure(how.fail, how.code, how.retry_after))
        hit.status = 200 if kind else 404
        if not kind:
            return await self._say(answers.whole(404, answers.error(404, f"no such path: {hit.path}", "not_found")))
        if hit.stream and kind != "embedding":
            return await self._stream(kind, usage=usage)
        if how.every and not await self._still(how.every):
            return False
        return await self._say(answers.whole(200, answers.body(kind, hit.model, how.prompt_tokens, how.tokens)))

    async def _stream(self, kind: str, *, usage: bool) -> bool:
        how = self._how
        await self._say(answers.STREAM_HEAD)
        if how.hang == "chunk":
            return await self._still(None)
        for index in range(how.tokens):
            if index == how.stall_after:
                return await self._still(None)
            if how.every and not await self._still(how.every):
                return False
            await self._say(answers.event(answers.chunk(kind, self._hit.model, index)))
        await self._say(answers.ending(kind, self._hit.model, how.prompt_tokens, how.tokens, usage=usage))
        return True

    async def _say(self, data: bytes) -> bool:
        self._writer.write(data)
        await self._writer.drain()
        self._hit.said = time.monotonic()
        return True

    async def _still(self, seconds: float | None) -> bool:
        """Say nothing for so long, or for ever; False when the other side went away meanwhile."""
        done, _ = await asyncio.wait({self._gone}, timeout=seconds)
        if done:
            self._hit.left = time.monotonic()
        return not done
