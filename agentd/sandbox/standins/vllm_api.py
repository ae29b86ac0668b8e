"""The HTTP surface of the stand-in vLLM: OpenAI endpoints, health, metrics, and sleep and pause of development mode."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agentd.sandbox.standins import generate
from agentd.sandbox.standins.vllm_state import Api
from agentd.sandbox.standins.web import JSON, Handler

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_VERSION = "0.33.0"


class VllmHandler(Handler):
    api: Api

    def route(self, method: str, path: str) -> None:
        if self.api.key and path.startswith(_GUARDED) and self.headers.get("Authorization") != f"Bearer {self.api.key}":
            self.send_json(401, {"error": "Unauthorized"})
            return
        action = _ROUTES.get((method, path)) or (_DEV_ROUTES.get((method, path)) if self.api.dev_mode else None)
        if action is None:
            self.not_found()
        else:
            action(self)

    def health(self) -> None:
        self._send(503 if self.api.engine_dead else 200, "text/plain", b"")

    def version(self) -> None:
        self.send_json(200, {"version": _VERSION})

    def load(self) -> None:
        self.send_json(200, {"server_load": self.api.running})

    def metrics(self) -> None:
        self.send_text(200, self.api.metrics(), "text/plain; version=0.0.4; charset=utf-8")

    def models(self) -> None:
        api = self.api
        card = {"id": api.model, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": api.model,
                "parent": None, "max_model_len": api.max_model_len, "permission": []}  # fmt: skip
        self.send_json(200, {"object": "list", "data": [card]})

    def completions(self) -> None:
        self._generate(chat=False)

    def chat(self) -> None:
        self._generate(chat=True)

    def _generate(self, *, chat: bool) -> None:
        request = self.parse()
        if request is None or self._refused(request):
            return
        generation = self.api.begin()
        try:
            words = generate.words(self.api, request, generation)
            if request.get("stream"):
                self.send_events(generate.chunks(self.api.model, words, request, chat))
            else:
                self.send_json(200, generate.answer(self.api.model, list(words), request, chat))
        finally:
            self.api.end()

    def _refused(self, request: JSON) -> bool:
        api = self.api
        if api.draining or api.paused:
            code = "engine_paused" if api.paused else "shutting_down"
            refusal = {"message": "The engine does not take requests now; retry later.", "code": code}
            self.send_json(503, {"error": {**refusal, "type": "ServiceUnavailableError", "param": None}})
        elif request.get("model", api.model) != api.model:
            message = f"The model `{request['model']}` does not exist."
            self.send_json(404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}})
        elif api.behaviour.fail == "canary-500":
            error: JSON = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
            self.send_json(500, {"error": {**error, "param": None}})
        else:
            return False
        return True

    def sleep(self) -> None:
        level = int(self.query.get("level", "1"))
        self.api.sleep(level, self.query.get("mode", "abort"))
        self.send_json(200, {"status": "sleeping", "level": level})

    def wake_up(self) -> None:
        error = self.api.wake([self.query["tags"]] if "tags" in self.query else [])
        if error:
            self.send_json(500, {"error": {"message": error, "type": "InternalServerError", "code": 500}})
        else:
            self.send_json(200, {"status": "awake" if self.api.sleep_level is None else "sleeping"})

    def is_sleeping(self) -> None:
        self.send_json(200, {"is_sleeping": self.api.sleep_level is not None})

    def pause(self) -> None:
        self.api.pause(self.query.get("mode", "abort"))
        self.send_json(200, {"status": "paused"})

    def resume(self) -> None:
        self.api.resume()
        self.send_json(200, {"status": "resumed"})

    def is_paused(self) -> None:
        self.send_json(200, {"is_paused": self.api.paused})

    def accepted(self) -> None:
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
