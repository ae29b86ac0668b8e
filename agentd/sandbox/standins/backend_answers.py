"""What a server with OpenAI's API says, byte by byte."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_IDS = {"chat": "chatcmpl-standin", "completion": "cmpl-standin"}
_OBJECTS = {"chat": "chat.completion", "completion": "text_completion"}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens. "
    "Please reduce the length of the messages."
)


def whole(status: int, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"content-length: {len(data)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def error(status: int, message: str, code: str) -> dict[str, object]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code or str(status)}}


def failure(status: int, code: str, retry_after: float) -> bytes:
    text = _TOO_LONG if code == "context_length_exceeded" else f"the stand-in was told to answer {status}"
    return whole(status, error(status, text, code), {"retry-after": f"{retry_after:g}"} if retry_after else None)


def models(names: Iterable[str]) -> dict[str, object]:
    rows = [{"id": name, "object": "model", "created": 1, "owned_by": "stand-in"} for name in names]
    return {"object": "list", "data": rows}


def body(kind: str, model: str, prompt: int, tokens: int) -> dict[str, object]:
    if kind == "embedding":
        rows = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2, 0.3]}]
        return {"object": "list", "model": model, "data": rows, "usage": _usage(prompt, 0)}
    text = " ".join(f"w{index}" for index in range(min(tokens, 100)))
    choice: dict[str, object] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if kind == "chat":
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    return {**_frame(kind, model), "choices": [choice], "usage": _usage(prompt, tokens)}


def chunk(kind: str, model: str, index: int) -> dict[str, object]:
    word = f"w{index} "
    choice: dict[str, object] = {"index": 0, "finish_reason": None, "logprobs": None}
    if kind == "chat":
        choice["delta"] = {"role": "assistant", "content": word} if index == 0 else {"content": word}
    else:
        choice["text"] = word
    return {**_frame(kind, model, stream=True), "choices": [choice]}


def event(data: object) -> bytes:
    return _chunked(f"data: {json.dumps(data)}\n\n".encode())


def ending(kind: str, model: str, prompt: int, tokens: int, *, usage: bool) -> bytes:
    choice: dict[str, object] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice["delta" if kind == "chat" else "text"] = {} if kind == "chat" else ""
    frame = _frame(kind, model, stream=True)
    last = event({**frame, "choices": [choice]})
    if usage:
        last += event({**frame, "choices": [], "usage": _usage(prompt, tokens)})
    return last + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _frame(kind: str, model: str, *, stream: bool = False) -> dict[str, object]:
    name = _OBJECTS[kind] + (".chunk" if stream and kind == "chat" else "")
    return {"id": _IDS[kind], "object": name, "created": int(time.time()), "model": model}


def _usage(prompt: int, tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


def _chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
