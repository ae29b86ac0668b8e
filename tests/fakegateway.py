"""A gateway for commands: LiteLLM's answers to right, wrong and no keys, and models that answer in chosen ways."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeGateway(ThreadingHTTPServer):
    """`keys`: those that are taken. `ways`: model -> how it answers ("ok", "fail", "hang", "silent", "break", "odd",
    "echo", "absent", or the id of the deployment that answers); others are unknown. `asked`: (path, model or "", key).
    """

    daemon_threads = True

    def __init__(self, *keys: str, **ways: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys = set(keys)
        self.ways = ways
        self.asked: list[tuple[str, str, str]] = []
        self.open = False
        self.hold = False
        """Answers to GET wait for `release`; `held` says that one does."""
        self.held = threading.Event()
        self.hanging = threading.Event()
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def fake_gateway(*keys: str, **ways: str) -> Iterator[FakeGateway]:
    server = FakeGateway(*keys, **ways)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeGateway

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.hold:
            self.server.held.set()
            self.server.release.wait(30)
        if self._admitted(""):
            self._json(200, {"data": [{"id": name} for name in self.server.ways]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = str(body["model"])
        if not self._admitted(model):
            return
        way = self.server.ways.get(model)
        if way is None:
            self._json(400, {"error": {"message": f"no model {model}"}})
        elif way == "fail":
            self._json(500, {"error": {"message": "it\n broke", "code": "500"}})
        elif way == "absent":
            message = f"the model {model} is not available now: slot gpu0 holds qwen"
            self._json(503, {"error": {"message": message, "type": "service_unavailable"}})
        elif way == "echo":
            self._json(401, {"error": {"message": f"wrong key {self._key()}"}})
        elif way == "hang":
            self.server.hanging.set()
            self.server.release.wait(30)
        elif way == "odd":
            self._text(200, "text/html", "<html>")
        elif self.path.endswith("/embeddings"):
            self._json(200, {"data": [{"embedding": [0.1, 0.2, 0.3]}]})
        else:
            self._stream(way)

    def _key(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _admitted(self, model: str) -> bool:
        key = self._key()
        self.server.asked.append((self.path, model, key))
        if self.server.open or key in self.server.keys:
            return True
        status = 400 if key else 401
        self._json(status, {"error": {"message": "Authentication Error", "code": str(status)}})
        return False

    def _json(self, status: int, document: Any) -> None:
        self._text(status, "application/json", json.dumps(document))

    def _text(self, status: int, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, way: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if "/" in way:
            self.send_header("x-litellm-model-id", way)
        self.end_headers()
        words = [] if way == "silent" else ["Hello ", "there,\x1b[2J ", "friend"]
        for word in words:
            self._event({"id": "c", "choices": [{"index": 0, "delta": {"content": word}, "text": word}]})
        if way == "break":
            self._event({"error": {"message": "it stalled", "code": "408"}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, document: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
        self.wfile.flush()
