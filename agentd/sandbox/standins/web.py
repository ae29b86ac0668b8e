"""The HTTP base of the stand-ins: quick to start, one thread per connection, JSON and server-sent events."""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

JSON = dict[str, Any]
POLL_SECONDS = 3600.0
"""How often the server looks whether it is to shut down: a stand-in ends with its process, so never."""


class Server(ThreadingHTTPServer):
    """Bound at once, listening only after `server_activate`, as uvicorn under vLLM is."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, handler: type[BaseHTTPRequestHandler], listening: socket.socket | None = None
    ) -> None:
        """`listening`: a socket that systemd holds, instead of one of its own."""
        super().__init__((host, port), handler, bind_and_activate=False)
        if listening is not None:
            self.socket.close()
            self.socket = listening
        else:
            socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the resolver for a name

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class UnixServer(Server):
    """On a socket in the file system, with the mode that the umask gives it; nobody removes it."""

    address_family = socket.AF_UNIX

    def __init__(self, path: str, handler: type[BaseHTTPRequestHandler]) -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        super().__init__("", 0, handler, listening)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = self.socket.accept()
        return connection, ("unix", 0)


class Handler(BaseHTTPRequestHandler):
    """Subclasses define `route`, which answers `query` and `body` through `send_json`, `send_text` or `send_events`."""

    protocol_version = "HTTP/1.1"
    server_version = "uvicorn"
    sys_version = ""
    query: Mapping[str, str] = {}
    """The last value of each name; `queries` has them all."""
    queries: Mapping[str, list[str]] = {}
    body = b""

    def setup(self) -> None:
        super().setup()
        if self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self._dispatch("GET")

    def do_POST(self) -> None:
        self._dispatch("POST")

    def do_DELETE(self) -> None:
        self._dispatch("DELETE")

    def _dispatch(self, method: str) -> None:
        parts = urlsplit(self.path)
        self.queries = parse_qs(parts.query)
        self.query = {k: v[-1] for k, v in self.queries.items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.route(method, parts.path)

    def route(self, method: str, path: str) -> None:
        raise NotImplementedError

    def not_found(self) -> None:
        self.send_json(404, {"detail": "Not Found"})

    def parse(self) -> JSON | None:
        """The JSON object of the request; answers 400 and returns None when it is none."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        self.send_json(400, {"error": {"message": "invalid JSON", "type": "Bad Request", "code": 400}})
        return None

    def send_json(self, status: int, value: object) -> None:
        self._send(status, "application/json", json.dumps(value, separators=(",", ":")).encode())

    def send_text(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        self._send(status, kind, text.encode())

    def _send(self, status: int, kind: str, data: bytes) -> None:
        """One write for head and body: no small packet waits for another."""
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nserver: uvicorn\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        self.wfile.write(head.encode() + data)

    def send_events(self, events: Iterator[object]) -> None:
        """Server-sent events in chunks, ended by [DONE]."""
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for event in events:
            self._chunk(f"data: {json.dumps(event)}\n\n".encode())
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Nothing: vLLM's access log is off in most set-ups, and a probe a second would drown the rest."""


def log(level: str, text: str) -> None:
    """A line as vLLM writes them."""
    sys.stderr.write(f"{level} {time.strftime('%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()
