"""A stand-in for a server with OpenAI's API that fails, hangs, stalls, talks slowly or refuses as it is told to.

In a program's own event loop:

    async with Backend() as backend:
        backend.behave("qwen", fail=500)
        ... backend.url ... backend.hits("qwen")

As a program: `python -m agentd.sandbox.standins.backend --port 9001`, told over HTTP:

    POST /control   {"model": "qwen", "fail": 500}      one model; "tag": "x1" for one request of it; {} alone: all well
                    {"refuse": 5}                       no listener for so many seconds
    GET /hits       what came, with times

A request is known by its model's name and by a tag, the first word of its text that begins with "#".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from agentd.sandbox.standins import backend_answers as answers
from agentd.sandbox.standins.backend_request import FIELDS, WELL, Answer, Behaviour, Hit

_HEAD = 64 * 1024
_TAG = re.compile(r"#([\w.:/@+-]+)")
_KINDS = {"/chat/completions": "chat", "/completions": "completion", "/embeddings": "embedding"}


class Backend:
    """One listener on `host`; `port` 0: one that the kernel chooses, and keeps through refuse() and accept()."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, models: Iterable[str] = ()) -> None:
        self.host = host
        self.port = port
        self.models = list(models)
        self._behaviours: dict[tuple[str, str], Behaviour] = {}
        self._hits: list[Hit] = []
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Event()
        self._away: asyncio.Future[None] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    async def __aenter__(self) -> Backend:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._away is not None:
            self._away.cancel()
        await self.refuse()

    async def accept(self) -> None:
        """Listen, if not yet. Raises OSError."""
        if self._server is None:
            self._server = await asyncio.start_server(self._talk, self.host, self.port, limit=_HEAD, backlog=512)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close the listener and cut every connection: the next one is refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        talks = list(self._talks)
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

    def behave(self, model: str, *, tag: str = "", **values: Any) -> None:
        """From now on; a tag's own behaviour wins. Without values: well again. Raises ValueError for unknown ones."""
        unknown = set(values) - FIELDS
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(FIELDS))}")
        self._behaviours[model, tag] = replace(WELL, **values)

    def reset(self) -> None:
        """Everything well again, and nothing has come."""
        self._behaviours.clear()
        self._hits.clear()

    def hits(self, model: str = "", *, tag: str = "") -> list[Hit]:
        """In the order in which they came; of all models and tags where not said."""
        return [hit for hit in self._hits if model in ("", hit.model) and tag in ("", hit.tag)]

    async def wait_hits(self, count: int, model: str = "", *, tag: str = "") -> list[Hit]:
        """Until so many have come. No deadline of its own."""
        while len(found := self.hits(model, tag=tag)) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return found

    async def _be_away(self, seconds: float) -> None:
        await asyncio.sleep(0.05)  # The answer goes out first.
        await self.refuse()
        await asyncio.sleep(seconds)
        await self.accept()

    def _behaviour(self, model: str, tag: str) -> Behaviour:
        keys = [(model, tag), ("", tag)] if tag else []
        return next((self._behaviours[k] for k in (*keys, (model, ""), ("", "")) if k in self._behaviours), WELL)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # It went away, or speaks no HTTP.
        except asyncio.CancelledError:
            pass  # By refuse(), which waits for the end.
        finally:
            self._talks.discard(task)
            writer.transport.abort() if self._server is None else writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when the connection is over."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, *_ = [*first.split(" "), ""]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        path = path.partition("?")[0]
        kind = next((kind for end, kind in _KINDS.items() if path.endswith(end)), "")
        if method == "POST" and (kind or path != "/control"):
            return await self._serve(kind, path, json.loads(raw), reader, writer)
        status, body = self._other(method, path, raw)
        writer.write(answers.whole(status, body))
        await writer.drain()
        return True

    def _other(self, method: str, path: str, raw: bytes) -> tuple[int, object]:
        if (method, path) == ("POST", "/control"):
            return self._control(json.loads(raw or b"{}"))
        if (method, path) == ("GET", "/hits"):
            return 200, [asdict(hit) for hit in self._hits]
        if method == "GET" and path.endswith("/models"):
            return 200, answers.models(self.models or sorted({model for model, _ in self._behaviours if model}))
        if method == "GET" and path in ("/health", "/v1/health"):
            return 200, {}
        return 404, answers.error(404, f"no such path: {path}", "not_found")

    def _control(self, values: dict[str, Any]) -> tuple[int, object]:
        model, tag = str(values.pop("model", "")), str(values.pop("tag", ""))
        try:
            if not (model or tag or values):
                self.reset()
            elif "refuse" in values:
                self._away = asyncio.ensure_future(self._be_away(float(values["refuse"])))
            else:
                self.behave(model, tag=tag, **values)
        except (TypeError, ValueError) as error:
            return 400, answers.error(400, str(error), "bad_control")
        return 200, {}

    async def _serve(
        self, kind: str, path: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        model, stream = str(body.get("model", "")), bool(body.get("stream"))
        found = _TAG.search(json.dumps(body.get("messages") or body.get("prompt") or body.get("input") or ""))
        hit = Hit(model, found.group(1) if found else "", path, stream, time.monotonic())
        self._hits.append(hit)
        self._arrived.set()
        how = self._limited(self._behaviour(model, hit.tag), hit)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            return await Answer(hit, how, gone, writer).give(kind, usage=bool(body.get("stream_options")))
        except ConnectionError:
            hit.left = hit.left or time.monotonic()
            raise
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone

    def _limited(self, how: Behaviour, hit: Hit) -> Behaviour:
        if not how.rate:
            return how
        recent = [one for one in self.hits(hit.model) if one.at > hit.at - 60 and one.status == 200]
        left = max(1.0, 60 - (hit.at - recent[0].at)) if recent else 60.0
        return how if len(recent) < how.rate else Behaviour(fail=429, retry_after=round(left))


async def _serve(host: str, port: int) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with Backend(host, port) as backend:
        print(f"stand-in backend at {backend.url}", flush=True)
        await stop.wait()


def main(argv: list[str] | None = None) -> None:
    import argparse

    parser = argparse.ArgumentParser(description="A stand-in backend with OpenAI's API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(argv)
    asyncio.run(_serve(options.host, options.port))


if __name__ == "__main__":
    main()
