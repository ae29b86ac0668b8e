"""Development mode of the stand-in vLLM: pause, sleep, and calls into the engine. None of it asks for a key."""

from __future__ import annotations

from agentd.sandbox.standins.vllm_api import Routes, VllmHandler
from agentd.sandbox.standins.vllm_state import Api, EngineFailure

_MODES = ("abort", "wait", "keep")


class DevHandler(VllmHandler):
    def sleep(self) -> None:
        level, mode = self.query.get("level", "1"), self.query.get("mode", "abort")
        if level not in ("0", "1", "2") or mode not in _MODES:
            self.fail(400, "1 validation error", "Bad Request")
            return
        try:
            self.api.sleep(int(level), mode)
        except EngineFailure as error:
            self.fail(500, str(error))
        else:
            self._done({"status": "sleeping", "level": int(level)})

    def wake_up(self) -> None:
        tags = self.queries.get("tags", [])
        try:
            awake = self.api.wake(tags)
        except EngineFailure as error:
            self.fail(500, str(error))
        else:
            self._done({"status": "awake" if awake else "sleeping", "tags": tags or None})

    def _done(self, value: object) -> None:
        """Old versions answer with nothing."""
        if self.api.old:
            self._send(200, "text/plain", b"")
        else:
            self.send_json(200, value)

    def is_sleeping(self) -> None:
        """Paused counts as well: it is no proof that memory was given back."""
        self.send_json(200, {"is_sleeping": bool(self.api.asleep) or self.api.paused})

    def pause(self) -> None:
        mode = self.query.get("mode", "abort")
        if mode not in _MODES:
            self.fail(400, "1 validation error", "Bad Request")
            return
        self.api.pause(mode)
        self.send_json(200, {"status": "paused"})

    def resume(self) -> None:
        self.api.resume()
        self.send_json(200, {"status": "resumed"})

    def is_paused(self) -> None:
        self.send_json(200, {"is_paused": self.api.paused})

    def abort_requests(self) -> None:
        if not self.body:
            self.fail(400, "Invalid JSON format", "Bad Request")
        elif self.parse() is not None:
            self.send_json(200, {"status": "aborted", "aborted": self.api.abort()})

    def collective_rpc(self) -> None:
        request = self.parse()
        if request is None:
            return
        method = request.get("method")
        if method is None:
            self.fail(400, "Missing 'method' in request body", "Bad Request")
        elif method != "reload_weights":
            self.fail(500, f"Call to collective_rpc method failed: 'Worker' object has no attribute '{method}'")
        else:
            self.api.reload_weights()
            self.send_json(200, {"results": [None] * self.api.world_size})

    def reset_prefix_cache(self) -> None:
        self.send_json(200, {"success": True})

    def server_info(self) -> None:
        self.send_json(200, {"vllm_config": f"model={self.api.root}", "vllm_env": {}, "system_env": {}})


_ROUTES: Routes = {
    ("POST", "/sleep"): DevHandler.sleep,
    ("POST", "/wake_up"): DevHandler.wake_up,
    ("GET", "/is_sleeping"): DevHandler.is_sleeping,
    ("POST", "/collective_rpc"): DevHandler.collective_rpc,
    ("POST", "/reset_prefix_cache"): DevHandler.reset_prefix_cache,
    ("GET", "/server_info"): DevHandler.server_info,
}
_PAUSE_ROUTES: Routes = {
    ("POST", "/pause"): DevHandler.pause,
    ("POST", "/resume"): DevHandler.resume,
    ("GET", "/is_paused"): DevHandler.is_paused,
    ("POST", "/abort_requests"): DevHandler.abort_requests,
}


def make_handler(api: Api) -> type[VllmHandler]:
    routes = _ROUTES if api.old else {**_ROUTES, **_PAUSE_ROUTES}
    return type("BoundHandler", (DevHandler,), {"api": api, "dev_routes": routes})
