"""What the stand-in vLLM says: its words at a set pace, in OpenAI's response objects."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agentd.sandbox.standins.vllm_state import Api
from agentd.sandbox.standins.web import JSON


@dataclass(slots=True)
class Turn:
    """One request in the engine. The same prompt gives the same words: there is no chance in them."""

    api: Api
    request: JSON
    chat: bool
    generation: int
    count: int = 0
    reason: str | None = None

    def words(self) -> Iterator[str]:
        """The model's words; an abort ends them."""
        for word in itertools.cycle(self.api.text().split()):
            if not self.api.goes_on(self.generation):
                self.reason = "abort"
                return
            self.count += 1
            if self.count == limit(self.request):
                self.reason = "length"
            yield word if word == "!" else f"{word} "
            if self.reason:
                return

    def answer(self) -> JSON:
        text = "".join(self.words())
        content: JSON = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {**self._head(), "choices": [self._choice(content)], "usage": self._usage()}

    def chunks(self) -> Iterator[JSON]:
        """The last word carries the reason of the end; an abort has a chunk of its own."""
        head = self._head(chunk=True)
        if self.chat:
            yield {**head, "choices": [self._choice({"delta": {"role": "assistant", "content": ""}})]}
        for word in self.words():
            yield {**head, "choices": [self._choice({"delta": {"content": word}} if self.chat else {"text": word})]}
        if self.reason == "abort":
            yield {**head, "choices": [self._choice({"delta": {}} if self.chat else {"text": ""})]}
        if (self.request.get("stream_options") or {}).get("include_usage"):
            yield {**head, "choices": [], "usage": self._usage()}

    def _choice(self, content: JSON) -> JSON:
        return {"index": 0, "logprobs": None, "finish_reason": self.reason, "stop_reason": None, **content}

    def _usage(self) -> JSON:
        messages = self.request.get("messages", [])
        prompt = self.request.get("prompt") or " ".join(str(m.get("content")) for m in messages)
        tokens = max(1, len(str(prompt).split()))
        return {"prompt_tokens": tokens, "completion_tokens": self.count, "total_tokens": tokens + self.count}

    def _head(self, *, chunk: bool = False) -> JSON:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        identity = f"{'chatcmpl' if self.chat else 'cmpl'}-{os.urandom(8).hex()}"
        return {"id": identity, "object": kind, "created": int(time.time()), "model": self.api.model}


def limit(request: JSON) -> int:
    return int(request.get("max_completion_tokens") or request.get("max_tokens") or 16)
