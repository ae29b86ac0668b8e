"""The HTTP surface of the stand-in vLLM: OpenAI endpoints, health, metrics; see vllm_dev.py for development mode."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from agentd.sandbox.standins.generate import Turn, limit
from agentd.sandbox.standins.vllm_state import Api, EngineDead, Stopped
from agentd.sandbox.standins.web import JSON, Handler

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
Routes = Mapping[tuple[str, str], Any]


class VllmHandler(Handler):
    api: Api
    dev_routes: ClassVar[Routes] = {}

    def route(self, method: str, path: str) -> None:
        if self.api.key and path.startswith(_GUARDED) and self.headers.get("Authorization") != f"Bearer {self.api.key}":
            self.send_json(401, {"error": "Unauthorized"})
            return
        routes = {**_ROUTES, **(self.dev_routes if self.api.dev_mode else {})}
        if (method, path) in routes:
            self._act(routes[method, path])
        elif any(known == path for _, known in routes):
            self.send_json(405, {"detail": "Method Not Allowed"})
        else:
            self.not_found()

    def _act(self, action: Any) -> None:
        try:
            action(self)
        except EngineDead:
            self.fail(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")
        except Stopped:
            self.close_connection = True

    def fail(self, status: int, message: str, kind: str = "InternalServerError", **more: object) -> None:
        error: JSON = {"message": message, "type": kind, "param": None, "code": status}
        self.send_json(status, {"error": {**error, **more}})

    def health(self) -> None:
        self._send(503 if self.api.engine_dead else 200, "text/plain", b"")

    def version(self) -> None:
        self.send_json(200, {"version": self.api.behaviour.version})

    def load(self) -> None:
        self.send_json(200, {"server_load": self.api.running if self.api.tracks_load else 0})

    def metrics(self) -> None:
        self.send_text(200, self.api.metrics(), "text/plain; version=1.0.0; charset=utf-8")

    def models(self) -> None:
        api = self.api
        card = {"id": api.model, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": api.root,
                "parent": None, "max_model_len": api.max_model_len, "permission": []}  # fmt: skip
        self.send_json(200, {"object": "list", "data": [card]})

    def completions(self) -> None:
        self._generate(chat=False)

    def chat(self) -> None:
        self._generate(chat=True)

    def _generate(self, *, chat: bool) -> None:
        if not self.body:
            self.fail(400, "1 validation error", "Bad Request", param="body")
            return
        request = self.parse()
        if request is None or self._refused(request):
            return
        turn = Turn(self.api, request, chat, self.api.begin())
        try:
            if request.get("stream"):
                self.send_events(turn.chunks())
            else:
                self.send_json(200, turn.answer())
        except Stopped:
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # until the client leaves
            raise
        finally:
            self.api.end()

    def _refused(self, request: JSON) -> bool:
        api = self.api
        if (request.get("model") or api.model) != api.model:
            message = f"The model `{request['model']}` does not exist. Valid aliases: {api.model}."
            self.fail(404, message, "NotFoundError", param="model")
        elif limit(request) > api.max_model_len:
            message = f"max_tokens={limit(request)} cannot be greater than max_model_len={api.max_model_len}."
            self.fail(400, message, "BadRequestError", param="max_tokens")
        elif api.draining:
            self.fail(500, "cannot schedule new futures after shutdown")
        elif api.refusing:
            message = "The engine is paused; retry later."
            self.fail(503, message, "ServiceUnavailableError", code="engine_paused")
        elif api.behaviour.fail == "canary-500":
            self.fail(500, "EngineCore encountered an issue.")
        else:
            return False
        return True


_ROUTES: Routes = {
    ("GET", "/health"): VllmHandler.health,
    ("GET", "/version"): VllmHandler.version,
    ("GET", "/load"): VllmHandler.load,
    ("GET", "/metrics"): VllmHandler.metrics,
    ("GET", "/v1/models"): VllmHandler.models,
    ("POST", "/v1/completions"): VllmHandler.completions,
    ("POST", "/v1/chat/completions"): VllmHandler.chat,
}
