"""A stand-in for the LiteLLM proxy: liveness, readiness and the model list behind a key. It forwards nothing."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path

from agentd.sandbox.standins import behaviour
from agentd.sandbox.standins.web import POLL_SECONDS, Handler, Server, log

VERSION = "1.109.1"


class LitellmHandler(Handler):
    models: tuple[str, ...]
    key: str

    def route(self, method: str, path: str) -> None:
        if path in ("/health/liveliness", "/health/liveness"):
            self.send_json(200, "I'm alive!")
        elif path == "/health/readiness":
            ready = {"status": "healthy", "db": "Not connected", "cache": None, "litellm_version": VERSION}
            self.send_json(200, ready)
        elif self.key and self.headers.get("Authorization") != f"Bearer {self.key}":
            error = {"message": "Authentication Error, No api key passed in.", "type": "auth_error", "code": "401"}
            self.send_json(401, {"error": {**error, "param": "None"}})
        elif method == "GET" and path in ("/v1/models", "/models"):
            cards = [{"id": m, "object": "model", "created": 1677610602, "owned_by": "openai"} for m in self.models]
            self.send_json(200, {"data": cards, "object": "list"})
        else:
            self.not_found()


def _flag(name: str, default: str) -> str:
    words = sys.argv[1:]
    return words[words.index(name) + 1] if name in words[:-1] else default


def _models(path: str) -> tuple[str, ...]:
    """The model names of a config, by their lines: there is no YAML parser in the standard library."""
    if not path:
        return ()
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise SystemExit(f"Exception: Config file not found: {path}") from error
    return tuple(re.findall(r"^\s*-?\s*model_name:\s*[\"']?([^\s\"'#]+)", text, re.MULTILINE))


def _listening() -> socket.socket | None:
    """The socket of litellm.socket, when systemd handed it over."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    return socket.socket(fileno=3)


def _notify(text: str) -> None:
    """To systemd, as agentd's runtime does it for the real one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def main() -> None:
    if "--version" in sys.argv[1:]:
        print(f"LiteLLM: Current Version = {VERSION}")
        return
    settings = behaviour.load("litellm")
    host, port = _flag("--host", "0.0.0.0"), int(_flag("--port", "4001"))
    state = {"models": _models(_flag("--config", "")), "key": os.environ.get("LITELLM_MASTER_KEY", "")}
    if settings.fail == "exit-at-once":
        log("ERROR", settings.message or "Exception: cannot start the proxy")
        raise SystemExit(settings.exit_code)
    time.sleep(settings.load_seconds)
    server = Server(host, port, type("BoundHandler", (LitellmHandler,), state), _listening())
    server.server_activate()
    log("INFO", f"Uvicorn running on http://{host}:{port} (stand-in)")
    _notify("READY=1")
    server.serve_forever(POLL_SECONDS)
