"""The HTTP surface of the stand-in vLLM: OpenAI endpoints, health, metrics, and sleep and pause of development mode."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from agentd.sandbox.standins.behaviour import Behaviour
from agentd.sandbox.standins.engine import Engine
from agentd.sandbox.standins.web import JSON, Handler

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_VERSION = "0.33.0"


class Api:
    """The state behind the endpoints. `running` counts requests in work, `waiting` those queued while asleep."""

    def __init__(self, served_name: str, flags: Mapping[str, str], behaviour: Behaviour, engine: Engine) -> None:
        self.model = f"not-{served_name}" if behaviour.fail == "wrong-name" else served_name
        self.key = flags.get("--api-key") or os.environ.get("VLLM_API_KEY", "")
        self.dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1" and "--enable-sleep-mode" in flags
        self.max_model_len = int(flags.get("--max-model-len") or 4096)
        self.behaviour = behaviour
        self.engine = engine
        self.engine_pid = 0
        self.engine_dead = False
        self.draining = False
        self.sleep_level: int | None = None
        self.paused = False
        self.running = 0
        self.waiting = 0
        self.finished = 0
        self.generation = 0
        """Grows with every abort; a request that sees it change stops."""
        self.changed = threading.Condition()

    def begin(self) -> int:
        """Enter the engine, waiting silently while it sleeps; the generation to watch for an abort."""
        with self.changed:
            self.waiting += 1
            while self.sleep_level is not None:
                self.changed.wait()
            self.waiting -= 1
            self.running += 1
            return self.generation

    def end(self) -> None:
        with self.changed:
            self.running -= 1
            self.finished += 1
            self.changed.notify_all()

    def wait_idle(self, seconds: float | None) -> bool:
        """Until no request runs; None waits for ever, as vLLM's mode=wait does."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.running, seconds)

    def pause(self, mode: str) -> None:
        self.paused = True
        self._quiesce(mode)

    def _quiesce(self, mode: str) -> None:
        if mode == "abort":
            with self.changed:
                self.generation += 1
                self.changed.notify_all()
        if mode != "keep":
            self.wait_idle(None)

    def resume(self) -> None:
        self.paused = False

    def sleep(self, level: int, mode: str) -> None:
        with self.changed:
            self.sleep_level = level
        self._quiesce(mode)
        if level and self.behaviour.fail != "sleep-keeps-memory":
            self.engine.resize(self.engine_pid, self.behaviour.sleep_vram_bytes)

    def wake(self, tags: list[str]) -> str | None:
        """Take the memory back; an error text when it is not there."""
        if self.behaviour.fail == "wake-500":
            return "CUDA Error: out of memory at cumem_allocator.cpp"
        memory = self.engine.memory
        if memory is not None and memory.free() + self.behaviour.sleep_vram_bytes < self.engine.size:
            return "CUDA Error: out of memory at cumem_allocator.cpp"
        self.engine.resize(self.engine_pid, self.engine.size)
        with self.changed:
            if not tags or "kv_cache" in tags:
                self.sleep_level = None
                self.paused = False
                self.changed.notify_all()
        return None

    def metrics(self) -> str:
        label = f'engine="0",model_name="{self.model}"'
        level = self.sleep_level
        states = {"awake": level is None, "weights_offloaded": level == 1, "discard_all": level == 2}
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{{{label}}} {float(self.running)}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{{{label}}} {float(self.waiting)}",
            "# TYPE vllm:engine_sleep_state gauge",
            *(f'vllm:engine_sleep_state{{{label},sleep_state="{s}"}} {float(on)}' for s, on in states.items()),
            "# TYPE vllm:kv_cache_usage_perc gauge",
            f"vllm:kv_cache_usage_perc{{{label}}} 0.0",
            "# TYPE vllm:request_success counter",
            f'vllm:request_success_total{{{label},finished_reason="length"}} {float(self.finished)}',
        ]
        return "\n".join(lines) + "\n"


class VllmHandler(Handler):
    api: Api

    def route(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if self.api.key and path.startswith(_GUARDED) and self.headers.get("Authorization") != f"Bearer {self.api.key}":
            self.send_json(401, {"error": "Unauthorized"})
            return
        action = _ROUTES.get((method, path)) or (_DEV_ROUTES.get((method, path)) if self.api.dev_mode else None)
        if action is None:
            self.not_found()
        else:
            action(self, query, body)

    def health(self, query: dict[str, str], body: bytes) -> None:
        self._send(503 if self.api.engine_dead else 200, "text/plain", b"")

    def version(self, query: dict[str, str], body: bytes) -> None:
        self.send_json(200, {"version": _VERSION})

    def load(self, query: dict[str, str], body: bytes) -> None:
        self.send_json(200, {"server_load": self.api.running})

    def metrics(self, query: dict[str, str], body: bytes) -> None:
        self.send_text(200, self.api.metrics(), "text/plain; version=0.0.4; charset=utf-8")

    def models(self, query: dict[str, str], body: bytes) -> None:
        api = self.api
        card = {"id": api.model, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": api.model,
                "parent": None, "max_model_len": api.max_model_len, "permission": []}  # fmt: skip
        self.send_json(200, {"object": "list", "data": [card]})

    def completions(self, query: dict[str, str], body: bytes) -> None:
        self._generate(body, chat=False)

    def chat(self, query: dict[str, str], body: bytes) -> None:
        self._generate(body, chat=True)

    def _generate(self, body: bytes, *, chat: bool) -> None:
        request = self.parse(body)
        if request is None or self._refused(request):
            return
        generation = self.api.begin()
        try:
            words = _words(self.api, request, generation)
            if request.get("stream"):
                self.send_events(_chunks(self.api.model, words, request, chat))
            else:
                self.send_json(200, _answer(self.api.model, list(words), request, chat))
        finally:
            self.api.end()

    def _refused(self, request: JSON) -> bool:
        api = self.api
        if api.draining or api.paused:
            code = "engine_paused" if api.paused else "shutting_down"
            error = {"message": "The engine does not take requests now; retry later.", "code": code}
            self.send_json(503, {"error": {**error, "type": "ServiceUnavailableError", "param": None}})
        elif request.get("model", api.model) != api.model:
            message = f"The model `{request['model']}` does not exist."
            self.send_json(404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}})
        elif api.behaviour.fail == "canary-500":
            error = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
            self.send_json(500, {"error": {**error, "param": None}})
        else:
            return False
        return True

    def sleep(self, query: dict[str, str], body: bytes) -> None:
        level = int(query.get("level", "1"))
        self.api.sleep(level, query.get("mode", "abort"))
        self.send_json(200, {"status": "sleeping", "level": level})

    def wake_up(self, query: dict[str, str], body: bytes) -> None:
        error = self.api.wake([query["tags"]] if "tags" in query else [])
        if error:
            self.send_json(500, {"error": {"message": error, "type": "InternalServerError", "code": 500}})
        else:
            self.send_json(200, {"status": "awake" if self.api.sleep_level is None else "sleeping"})

    def is_sleeping(self, query: dict[str, str], body: bytes) -> None:
        self.send_json(200, {"is_sleeping": self.api.sleep_level is not None})

    def pause(self, query: dict[str, str], body: bytes) -> None:
        self.api.pause(query.get("mode", "abort"))
        self.send_json(200, {"status": "paused"})

    def resume(self, query: dict[str, str], body: bytes) -> None:
        self.api.resume()
        self.send_json(200, {"status": "resumed"})

    def is_paused(self, query: dict[str, str], body: bytes) -> None:
        self.send_json(200, {"is_paused": self.api.paused})

    def accepted(self, query: dict[str, str], body: bytes) -> None:
        self._send(200, "text/plain", b"")


_ROUTES: Mapping[tuple[str, str], Any] = {
    ("GET", "/health"): VllmHandler.health,
    ("GET", "/version"): VllmHandler.version,
    ("GET", "/load"): VllmHandler.load,
    ("GET", "/metrics"): VllmHandler.metrics,
    ("GET", "/v1/models"): VllmHandler.models,
    ("POST", "/v1/completions"): VllmHandler.completions,
    ("POST", "/v1/chat/completions"): VllmHandler.chat,
}
_DEV_ROUTES: Mapping[tuple[str, str], Any] = {
    ("POST", "/sleep"): VllmHandler.sleep,
    ("POST", "/wake_up"): VllmHandler.wake_up,
    ("GET", "/is_sleeping"): VllmHandler.is_sleeping,
    ("POST", "/pause"): VllmHandler.pause,
    ("POST", "/resume"): VllmHandler.resume,
    ("GET", "/is_paused"): VllmHandler.is_paused,
    ("POST", "/collective_rpc"): VllmHandler.accepted,
    ("POST", "/reset_prefix_cache"): VllmHandler.accepted,
}


def make_handler(api: Api) -> type[VllmHandler]:
    return type("BoundHandler", (VllmHandler,), {"api": api})


def _words(api: Api, request: JSON, generation: int) -> Iterator[str]:
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


def _answer(model: str, words: list[str], request: JSON, chat: bool) -> JSON:
    text = "".join(words)
    reason = "length" if words else "abort"
    choice: JSON = {"index": 0, "logprobs": None, "finish_reason": reason, "stop_reason": None}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {**_head(model, chat), "choices": [choice], "usage": _usage(request, len(words))}


def _chunks(model: str, words: Iterator[str], request: JSON, chat: bool) -> Iterator[JSON]:
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
