"""ASGI: GET /agentd/state, which tells agentd what this process is. Only on the control socket."""

from __future__ import annotations

import json
import os

from .flight import App, Flight, Receive, Scope, Send

PATH = "/agentd/state"


class Control:
    """Everything else on the control socket goes to LiteLLM, so that a standby can be looked at."""

    def __init__(self, app: App, flight: Flight, digest: str, version: str) -> None:
        self._app = app
        self._flight = flight
        self._digest = digest
        self._version = version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        status, body = (200, self.state()) if scope["method"] in ("GET", "HEAD") else (405, {"error": "GET only"})
        data = json.dumps(body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(data)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else data})

    def state(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "digest": self._digest,
            "version": self._version,
            "shared": self._flight.shared,
            "draining": self._flight.draining,
            "in_flight": self._flight.requests,
        }
