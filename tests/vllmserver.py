"""A vLLM server as a process of a test's own, the real one or the stand-in: started, asked, looked at, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
LOCAL = "127.0.0.1"


@dataclass
class Program:
    """What to start, and how long it may take. `environment` is all that the process gets."""

    argv: list[str]
    model: Path
    environment: Mapping[str, str]
    directory: Path
    """For logs and sockets; short, since a socket's path may have 107 characters."""
    patience: float
    """Seconds for a start or an end."""
    prepare: Callable[[dict[str, object]], None] = lambda _: None
    """Sets how a stand-in acts; the real one acts as it does."""
    started: list[Running] = field(default_factory=list)

    def start(self, *flags: str, uds: Path | None = None, port: int = 0, dev: bool = False) -> Running:
        port = port or free_port()
        where = ["--uds", str(uds)] if uds else ["--host", LOCAL, "--port", str(port)]
        argv = [*self.argv, "serve", str(self.model), "--served-model-name", "qwen", *where, *flags]
        environment = {**self.environment, "VLLM_API_KEY": "secret", **({"VLLM_SERVER_DEV_MODE": "1"} if dev else {})}
        log = self.directory / f"log-{len(self.started)}"
        with log.open("wb") as out:
            process = subprocess.Popen(argv, env=environment, stdout=out, stderr=out, start_new_session=True)
        self.started.append(Running(process, port, uds, log, self.patience))
        return self.started[-1]

    def close(self) -> None:
        for running in self.started:
            running.destroy()


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    port: int
    uds: Path | None
    log: Path
    patience: float
    seen: dict[int, str] = field(default_factory=dict)
    """Titles of the processes below it, as they were when they were last looked at."""

    # -- asking -----------------------------------------------------------------------------------------------------

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(LOCAL, self.port, timeout=timeout)
        if self.uds is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout)
            connection.sock.connect(str(self.uds))
        return connection

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] = KEY, timeout: float = 60.0
    ) -> tuple[int, bytes]:
        with contextlib.closing(self.connect(timeout)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def json(self, method: str, path: str, body: object = None) -> Any:
        status, data = self.ask(method, path, body)
        assert status == 200, (status, data)
        return json.loads(data)

    def error(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        status, data = self.ask(method, path, body)
        return status, json.loads(data)["error"]

    def gauges(self) -> dict[str, dict[str, float]]:
        """Metric name -> labels as they are written -> value, of vLLM's own metrics."""
        found: dict[str, dict[str, float]] = {}
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith("vllm:"):
                name, _, rest = line.partition("{")
                labels, _, value = rest.rpartition("} ")
                found.setdefault(name, {})[labels] = float(value)
        return found

    def running_requests(self) -> float:
        return sum(self.gauges()["vllm:num_requests_running"].values())

    def asked(self, body: dict[str, Any], path: str = "/v1/completions") -> Asked:
        """A request that goes on beside the test."""
        return Asked(self, path, body)

    # -- life -------------------------------------------------------------------------------------------------------

    def listens(self) -> bool:
        family = socket.AF_UNIX if self.uds else socket.AF_INET
        with socket.socket(family) as probe:
            address: Any = str(self.uds) if self.uds else (LOCAL, self.port)
            return probe.connect_ex(address) == 0

    def serving(self) -> Running:
        """Wait until it serves."""

        def up() -> bool:
            assert self.process.poll() is None, self.tail()
            return self.listens() and self.ask("GET", "/health")[0] == 200

        self.until(up)
        self.look()
        return self

    def until(self, condition: Callable[[], object], seconds: float = 0.0) -> None:
        deadline = time.monotonic() + (seconds or self.patience)
        while not condition():
            assert time.monotonic() < deadline, f"it did not come in time; {self.tail()}"
            time.sleep(0.02)

    def ended(self, seconds: float = 0.0) -> int:
        """The exit status."""
        try:
            return self.process.wait(seconds or self.patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; {self.tail()}") from None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def look(self) -> dict[int, str]:
        """Processes at and below it that are titled as vLLM's, by pid."""
        for pid in _tree(self.process.pid):
            with contextlib.suppress(OSError):
                self.seen[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return {pid: title for pid, title in self.seen.items() if title.startswith("VLLM::")}

    def left(self) -> dict[int, str]:
        """Those of them that still live, whether or not their parent does."""
        return {pid: title for pid, title in self.seen.items() if title.startswith("VLLM::") and _alive(pid)}

    def engine(self) -> int:
        return next(pid for pid, title in self.look().items() if title == "VLLM::EngineCore")

    def engine_gone(self) -> bool:
        return "VLLM::EngineCore" not in self.left().values()

    def destroy(self) -> None:
        if self.process.poll() is None:
            self.look()
            self.process.kill()
            self.process.wait()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Asked:
    """The answer of a request in a thread of its own."""

    def __init__(self, server: Running, path: str, body: dict[str, Any]) -> None:
        self._connection = server.connect()
        self._connection.request("POST", path, json.dumps(body), dict(KEY))
        self._done: list[tuple[int, bytes]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            answer = self._connection.getresponse()
            self._done.append((answer.status, answer.read()))
        self._connection.close()

    def answered(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return bool(self._done)

    def answer(self, seconds: float = 60.0) -> dict[str, Any]:
        assert self.answered(seconds), "no answer"
        status, data = self._done[0]
        assert status == 200, data
        found: dict[str, Any] = json.loads(data)
        return found

    def leave(self) -> None:
        """Go away, answered or not."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        port: int = probe.getsockname()[1]
    return port
