"""Questions to the real models of this tier, on a port or on a socket, and to agentctl."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Done = subprocess.CompletedProcess[str]
PATIENCE = 120.0


def agentctl(*words: str, timeout: float = 500.0) -> Done:
    command = [str(Path(os.environ["HOME"]) / ".local/bin/agentctl"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def key() -> str:
    return (Path(os.environ["HOME"]) / ".config/agentd/vllm.env").read_text().strip().partition("=")[2]


def connect(url: str) -> http.client.HTTPConnection:
    """To "http://HOST:PORT" or "http+unix:///PATH.sock"."""
    scheme, _, rest = url.partition("://")
    if scheme == "http":
        return http.client.HTTPConnection(rest, timeout=PATIENCE)
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect(rest)
    return connection


def said(url: str, name: str, **more: Any) -> str:
    """What the server goes on with after "i am". The request names the model: a stranger answers 404."""
    body = {"model": name, "prompt": "i am", "max_tokens": 1, "temperature": 0, **more}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key()}"}
    with contextlib.closing(connect(url)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
    assert answer.status == 200, data
    reply = json.loads(data)
    assert reply["model"] == name
    return str(reply["choices"][0]["text"])


class Generation(threading.Thread):
    """A stream of many tokens in flight. `count` of them came; `whole`: all that were asked for."""

    def __init__(self, url: str, name: str, tokens: int, n: int = 1) -> None:
        """`n` answers at once, of so many tokens each; the more, the slower."""
        super().__init__(daemon=True)
        self.count = 0
        self.whole = False
        self._begun = threading.Event()
        self._tokens = tokens * n
        body = {"model": name, "prompt": "i am", "max_tokens": tokens, "ignore_eos": True, "stream": True, "n": n}
        self._connection = connect(url)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key()}"}
        self._connection.request("POST", "/v1/completions", json.dumps(body), headers)
        self.start()
        assert self._begun.wait(PATIENCE), "the generation does not begin"

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(self._connection):
            for line in self._connection.getresponse():
                if line.startswith(b"data: {"):
                    self.count += 1
                    self._begun.set()
                self.whole = self.whole or (line.startswith(b"data: [DONE]") and self.count >= self._tokens)

    def ended(self) -> Generation:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        time.sleep(0.1)


@contextlib.contextmanager
def unchecked(home: Path) -> Iterator[None]:
    """PRECHECK does not look into dolphin's files."""
    path = home / ".config/agentd/config.d/80-unchecked.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text('[services.dolphin.model]\ncheck_files = "none"\n')
    try:
        assert agentctl("reload").returncode == 0
        yield
    finally:
        path.unlink()
        assert agentctl("reload").returncode == 0
