"""What the stand-in vLLM says: its words at a set pace, in OpenAI's response objects."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from agentd.sandbox.standins.vllm_state import Api
from agentd.sandbox.standins.web import JSON


def words(api: Api, request: JSON, generation: int) -> Iterator[str]:
    """The model's words, at the set pace; an abort ends them."""
    limit = int(request.get("max_completion_tokens") or request.get("max_tokens") or 16)
    text = f"this is {api.model} speaking "
    for number in range(limit):
        if api.behaviour.token_seconds:
            with api.changed:
                api.changed.wait_for(lambda: api.generation != generation, api.behaviour.token_seconds)
        if api.generation != generation:
            return
        yield text.split(" ")[number % 4] + " "


def _usage(request: JSON, count: int) -> JSON:
    prompt = request.get("prompt") or " ".join(str(m.get("content")) for m in request.get("messages", []))
    tokens = max(1, len(str(prompt).split()))
    return {"prompt_tokens": tokens, "completion_tokens": count, "total_tokens": tokens + count}


def _head(model: str, chat: bool, *, chunk: bool = False) -> JSON:
    kind = ("chat.completion.chunk" if chunk else "chat.completion") if chat else "text_completion"
    name = "chatcmpl" if chat else "cmpl"
    return {"id": f"{name}-{os.urandom(12).hex()}", "object": kind, "created": int(time.time()), "model": model}


def answer(model: str, words: list[str], request: JSON, chat: bool) -> JSON:
    text = "".join(words)
    reason = "length" if words else "abort"
    choice: JSON = {"index": 0, "logprobs": None, "finish_reason": reason, "stop_reason": None}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {**_head(model, chat), "choices": [choice], "usage": _usage(request, len(words))}


def chunks(model: str, words: Iterator[str], request: JSON, chat: bool) -> Iterator[JSON]:
    head = _head(model, chat, chunk=True)
    count = 0
    for word in words:
        count += 1
        content: JSON = {"delta": {"content": word}} if chat else {"text": word}
        yield {**head, "choices": [{"index": 0, "logprobs": None, "finish_reason": None, **content}]}
    last: JSON = {"delta": {}} if chat else {"text": ""}
    yield {**head, "choices": [{"index": 0, "logprobs": None, "finish_reason": "length", **last}]}
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(request, count)}
