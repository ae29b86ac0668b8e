"""Questions to a gateway from a short-lived program: which keys it takes, and one real answer of a model. Blocks.

The standard library's client. Only the status, the answer's words and the times leave this file, never the key.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MOST = 4 * 1024 * 1024
"""Bytes of an answer that are looked at."""
DEPLOYMENT = "x-litellm-model-id"


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: there was none. Times in seconds; `first` is None without a token."""

    status: int
    total: float
    first: float | None = None
    text: str = ""
    error: str = ""
    """Why it does not count; "" for a good one."""
    deployment: str = ""
    """Id of the deployment that answered, as LiteLLM says; "" without that."""


def models_status(url: str, key: str | None, *, timeout: float) -> int:
    """Status of GET /v1/models; 0 when nobody answers. `key` None: without one."""
    return models(url, key, timeout=timeout)[0]


def models(url: str, key: str | None, *, timeout: float) -> tuple[int, tuple[str, ...]]:
    """The status too, and the ids that are listed, sorted."""
    try:
        with _Connection(url, timeout) as connection:
            response = connection.send("GET", "/v1/models", key, None)
            body = response.read(MOST)
            status = response.status
    except (OSError, http.client.HTTPException, ValueError):
        return 0, ()
    try:
        return status, tuple(sorted(str(item["id"]) for item in json.loads(body)["data"]))
    except (ValueError, KeyError, TypeError):
        return status, ()


def chat(url: str, key: str, model: str, question: str, *, tokens: int, timeout: float) -> Answer:
    """One streamed chat completion."""
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True}
    return _asked(url, "/v1/chat/completions", key, body, timeout)


def complete(url: str, key: str, model: str, question: str, *, tokens: int, timeout: float) -> Answer:
    body = {"model": model, "prompt": question, "max_tokens": tokens, "stream": True}
    return _asked(url, "/v1/completions", key, body, timeout)


def embed(url: str, key: str, model: str, text: str, *, timeout: float) -> Answer:
    """One embedding; its text says how many numbers came back."""
    return _asked(url, "/v1/embeddings", key, {"model": model, "input": text}, timeout)


def _asked(url: str, path: str, key: str, body: Mapping[str, Any], timeout: float) -> Answer:
    started = time.monotonic()
    status, first, text, deployment = 0, None, "", ""
    try:
        with _Connection(url, timeout) as connection:
            response = connection.send("POST", path, key, body)
            status, deployment = response.status, response.headers.get(DEPLOYMENT, "")
            if status != 200:
                error = _reason(response.read(64 * 1024))
            elif not body.get("stream"):
                text, error = _vector(response.read(MOST))
                first = time.monotonic() - started
            else:
                error = ""
                for piece in _events(response, connection, started + timeout):
                    error = error or _reason_of(piece)
                    said = _said(piece)
                    if said and first is None:
                        first = time.monotonic() - started
                    text += said
                error = error or ("" if first is not None else "the answer has no text")
    except TimeoutError:
        error = f"no answer within {timeout:g} s" if first is None else f"the answer did not end within {timeout:g} s"
    except (OSError, http.client.HTTPException) as problem:
        error = f"cannot ask {url}: {_words(problem)}"
    except ValueError:
        error = "the answer is not what the protocol says"
    return Answer(status, time.monotonic() - started, first, text, error, deployment)


class _Connection:
    """One request, and the time that is left for it."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._http = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, method: str, path: str, key: str | None, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        headers = {"Connection": "close"} | ({"Authorization": f"Bearer {key}"} if key is not None else {})
        if body is not None:
            headers["Content-Type"] = "application/json"
        self._http.connect()
        self.socket: socket.socket = self._http.sock
        self._http.request(method, self._prefix + path, None if body is None else json.dumps(body).encode(), headers)
        return self._http.getresponse()


def _events(response: http.client.HTTPResponse, connection: _Connection, deadline: float) -> Iterator[dict[str, Any]]:
    """The pieces of a stream until its [DONE]. Raises TimeoutError, ValueError."""
    size = 0
    while (left := deadline - time.monotonic()) > 0:
        if response.isclosed():  # From Python 3.13 on it closes itself, and the socket, once its length was read.
            return
        connection.socket.settimeout(left)
        line = response.readline(1024 * 1024)
        size += len(line)
        if not line or size > MOST:
            return
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            piece = json.loads(data)
            if isinstance(piece, dict):
                yield piece
    raise TimeoutError


def _said(piece: Mapping[str, Any]) -> str:
    """The words of a piece: of a chat, of its reasoning, or of a completion."""
    choices = piece.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    delta = choices[0].get("delta")
    places = (delta if isinstance(delta, dict) else {}, choices[0])
    words = (place.get(name) for place in places for name in ("content", "reasoning_content", "text"))
    return next((word for word in words if isinstance(word, str) and word), "")


def _reason_of(piece: Mapping[str, Any]) -> str:
    return _reason(json.dumps(piece).encode()) if "error" in piece else ""


def _reason(body: bytes) -> str:
    """The message of an error answer, in one line."""
    try:
        error = json.loads(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:300] or "an empty answer"


def _vector(body: bytes) -> tuple[str, str]:
    """(text, error). Raises ValueError."""
    try:
        count = len(json.loads(body)["data"][0]["embedding"])
    except (KeyError, TypeError, IndexError):
        raise ValueError from None
    return f"{count} numbers", "" if count else "the embedding is empty"


def _words(problem: BaseException) -> str:
    text = getattr(problem, "strerror", "") or str(problem) or type(problem).__name__
    return str(text).lower()
