"""The API over its unix socket, for short-lived processes: standard library only, and little of that.

HTTP/1.0 with `Connection: close` written by hand, since http.client alone takes longer to import than all this.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from agentd.errors import AgentdError

SOCKET_VARIABLE = "AGENTD_SOCKET"
SYSTEM_SOCKET = "/run/agentd/agentd.sock"
TIMEOUT = 10.0
MAX_HEAD = 64 * 1024
MAX_ANSWER = 64 * 1024 * 1024


class ApiProblem(AgentdError):
    """agentd answered with a problem; `body` is all of it."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        message = str(body.get("detail") or f"agentd answered with status {status}")
        super().__init__(str(body.get("kind") or "bad-answer"), message, hint=str(body.get("hint") or ""))
        self.status = status
        self.body = body


class Unreachable(AgentdError):
    """Nobody answers on the socket, or the connection was lost: the daemon may come back."""


def default_socket(env: Mapping[str, str] = os.environ) -> str:
    """$AGENTD_SOCKET, else the user's own agentd, else the system's when only that one is there."""
    if env.get(SOCKET_VARIABLE):
        return env[SOCKET_VARIABLE]
    runtime = env.get("XDG_RUNTIME_DIR", "")
    base = runtime if runtime.startswith("/") else f"/run/user/{os.getuid()}"
    path = f"{base}/agentd/agentd.sock"
    return SYSTEM_SOCKET if os.path.exists(SYSTEM_SOCKET) and not os.path.exists(path) else path  # noqa: PTH110


def quote(name: str) -> str:
    """One segment of a path, or one value of a query."""
    return "".join(chr(b) if (chr(b).isalnum() and b < 128) or chr(b) in "-._~" else f"%{b:02X}" for b in name.encode())


class Client:
    def __init__(self, path: str = "", *, timeout: float = TIMEOUT) -> None:
        self.path = path or default_socket()
        self._timeout = timeout

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        return self.request("POST", path, body or {}, timeout=timeout)

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        """The decoded JSON of a success. Raises ApiProblem, Unreachable, AgentdError("timeout" | "bad-answer")."""
        with self._open(method, path, body, timeout or self._timeout) as connection:
            status, headers = connection.head()
            content = connection.body(headers)
        return _decoded(status, content)

    def stream(self, path: str) -> Stream:
        """Server-sent events; use it as a context manager."""
        connection = self._open("GET", path, None, self._timeout)
        status = 0
        try:
            status, headers = connection.head()
            if status != 200:
                _decoded(status, connection.body(headers))
        finally:
            if status != 200:
                connection.close()
        return Stream(connection)

    def _open(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> _Connection:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        return _Connection(self.path, head.encode() + b"\r\n" + content, timeout)


class _Connection:
    """A socket with a deadline and a buffer."""

    def __init__(self, path: str, request: bytes, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._socket.sendall(request)
        except OSError as error:
            # A refusal (too large, not allowed) may come before everything is sent: then it is there to be read.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                self._socket.close()
                raise _cannot_reach(path, error) from None

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def extend(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def receive(self) -> bytes:
        """More bytes, b"" at the end. Raises AgentdError("timeout"), Unreachable."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late()
        self._socket.settimeout(left)
        try:
            return self._socket.recv(65536)
        except TimeoutError:
            raise self._late() from None
        except OSError as error:
            raise _lost(error.strerror or str(error)) from None

    def until(self, mark: bytes, most: int) -> bytes | None:
        """What comes before `mark`; None when the stream ends without it."""
        while mark not in self._buffer:
            if len(self._buffer) > most:
                raise AgentdError("bad-answer", f"agentd's answer at {self._path} is not HTTP")
            data = self.receive()
            if not data:
                return None
            self._buffer += data
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def head(self) -> tuple[int, dict[str, str]]:
        text = self.until(b"\r\n\r\n", MAX_HEAD)
        if text is None:
            raise _lost("no answer") if not self._buffer else self._not_http()
        first, *lines = text.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise self._not_http()
        fields = (line.partition(":") for line in lines)
        return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in fields}

    def body(self, headers: Mapping[str, str]) -> bytes:
        length = headers.get("content-length", "")
        wanted = int(length) if length.isdigit() else None
        parts, size = [self._buffer], len(self._buffer)
        while wanted is None or size < wanted:
            data = self.receive()
            if not data:
                break
            parts.append(data)
            size += len(data)
            if size > MAX_ANSWER:
                raise AgentdError("bad-answer", "agentd's answer is larger than 64 MiB")
        if wanted is not None and size < wanted:
            raise _lost(f"{size} of {wanted} bytes came")
        return b"".join(parts)

    def _late(self) -> AgentdError:
        message = f"agentd at {self._path} did not answer within {self._timeout:g} s"
        return AgentdError("timeout", message, hint="see: agentctl logs agentd")

    def _not_http(self) -> AgentdError:
        return AgentdError("bad-answer", f"what listens at {self._path} does not speak HTTP")


class Stream:
    """Messages as (event, data); "message" is the event that has no name."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def next(self, timeout: float) -> tuple[str, str] | None:
        """The next message, or None when none came in time. Raises Unreachable when the stream ends."""
        self._connection.extend(timeout)
        while True:
            try:
                block = self._connection.until(b"\n\n", MAX_ANSWER)
            except AgentdError as error:
                if error.kind == "timeout":
                    return None
                raise
            if block is None:
                raise _lost("the stream ended")
            message = _message(block.decode("utf-8", "replace"))
            if message is not None:
                return message


def _message(block: str) -> tuple[str, str] | None:
    event, data = "message", []
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
    return (event, "\n".join(data)) if data else None


def _decoded(status: int, content: bytes) -> Any:
    try:
        value = json.loads(content)
    except ValueError:
        text = content[:200].decode("utf-8", "replace").strip()
        raise AgentdError("bad-answer", f"agentd answered with status {status} and no JSON: {text}") from None
    if status >= 400:
        raise ApiProblem(status, value if isinstance(value, dict) else {})
    return value


def _lost(reason: str) -> Unreachable:
    hint = "whether it runs, and why not: systemctl --user status agentd"
    return Unreachable("connection-lost", f"the connection to agentd was lost: {reason}", hint=hint)


def _cannot_reach(path: str, error: OSError) -> AgentdError:
    manager = "systemctl" if path == SYSTEM_SOCKET else "systemctl --user"
    message = f"cannot reach agentd at {path}: {(error.strerror or str(error)).lower()}"
    if isinstance(error, TimeoutError):
        return AgentdError("timeout", f"cannot reach agentd at {path}: it did not accept in time")
    if isinstance(error, PermissionError):
        return AgentdError(
            "permission", message, hint="only the user that agentd runs as, and root, may use its socket"
        )
    return Unreachable("daemon-unreachable", message, hint=f"start it with: {manager} start agentd")
