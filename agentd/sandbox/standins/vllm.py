"""A stand-in for `vllm serve`: the arguments, the process tree, the port's life and the end of the real one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from agentd.sandbox.standins import behaviour, engine
from agentd.sandbox.standins.vllm_api import make_handler
from agentd.sandbox.standins.vllm_state import Api
from agentd.sandbox.standins.web import POLL_SECONDS, Server, log

VERSION = "0.33.0"
_BOOLEAN = frozenset({
    "--enable-sleep-mode", "--enforce-eager", "--trust-remote-code", "--enable-prefix-caching",
    "--enable-server-load-tracking", "--disable-log-requests", "--enable-auto-tool-choice", "--enable-chunked-prefill",
    "--disable-log-stats", "--disable-uvicorn-access-log",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arguments:
    model: str
    flags: dict[str, str]

    def text(self, name: str, default: str = "") -> str:
        return self.flags.get(name, default)

    def number(self, name: str, default: float) -> float:
        try:
            return float(self.flags.get(name, default))
        except ValueError:
            raise SystemExit(f"vllm serve: error: argument {name}: invalid value: {self.flags[name]!r}") from None

    @property
    def served_name(self) -> str:
        return self.text("--served-model-name") or self.model


def parse(argv: list[str]) -> Arguments:
    """Every flag of vLLM is accepted; the few that matter here are looked up later."""
    if argv[:1] in (["--version"], ["-v"]):
        print(VERSION)
        raise SystemExit(0)
    if argv[:1] != ["serve"]:
        raise SystemExit("usage: vllm serve MODEL [options]")
    words, flags, rest = argv[1:], {}, []
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            rest.append(word)
            continue
        name, equals, value = word.partition("=")
        if not equals and name not in _BOOLEAN and words and not words[0].startswith("--"):
            value = words.pop(0)
        flags[name] = value
    model = rest[0] if rest else flags.get("--model", "")
    if not model:
        raise SystemExit("vllm serve: error: the following arguments are required: model_tag")
    return Arguments(model, flags)


def check_model(model: str) -> None:
    if model.startswith(("/", "./")) and not Path(model).is_dir():
        log(
            "ERROR",
            f"OSError: Can't load the configuration of '{model}'. Make sure it is the correct path to a directory",
        )
        raise SystemExit(1)


class Process:
    """The API server: loads, serves until SIGTERM or the engine's death, and ends as vLLM does."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._behaviour = behaviour.load(arguments.served_name)
        self._signals = _signal_pipe(ignore_term=self._behaviour.fail == "ignore-sigterm")
        self._engine_pid = 0
        self._engine_fd = -1

    def run(self) -> int:
        if self._behaviour.fail == "exit-at-once":
            log("ERROR", self._behaviour.message or "torch.OutOfMemoryError: CUDA out of memory.")
            return self._behaviour.exit_code
        arguments = self._arguments
        core = engine.Engine(self._behaviour, arguments.number("--gpu-memory-utilization", 0.9))
        api = Api(arguments.served_name, arguments.flags, self._behaviour, core)
        host, port = arguments.text("--host", "127.0.0.1"), int(arguments.number("--port", 8000))
        try:
            server = Server(host, port, make_handler(api))
        except OSError as error:
            log("ERROR", f"OSError: [Errno {error.errno}] {error.strerror}: {host}:{port}")
            return 1
        log("INFO", f"vLLM API server version {VERSION} (stand-in), model {arguments.model}")
        if not self._load(core, server):
            log("ERROR", "RuntimeError: Engine core initialization failed. See root cause above.")
            return self._behaviour.exit_code
        return self._serve(server, api)

    def _load(self, core: engine.Engine, server: Server) -> bool:
        """Start the engine and wait for it; True once it is ready."""
        self._engine_pid, pipe = engine.start(core, self._behaviour, server.socket.close)
        self._engine_fd = os.pidfd_open(self._engine_pid)
        ready, _, _ = select.select([pipe, self._signals], [], [])
        if self._signals in ready:
            self._interrupt()
        return os.read(pipe, 64) == b"ready\n"

    def _interrupt(self) -> None:
        """SIGTERM while loading: vLLM raises KeyboardInterrupt, kills the engine and ends by SIGINT."""
        if self._behaviour.fail not in engine.ORPHANS:
            os.kill(self._engine_pid, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    def _serve(self, server: Server, api: Api) -> int:
        api.engine_pid = self._engine_pid
        try:
            server.server_activate()
        except OSError as error:
            log("ERROR", f"OSError: [Errno {error.errno}] {error.strerror}")
            return 1
        threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        log("INFO", f"Application startup complete. Serving on port {server.server_address[1]}")
        ready, _, _ = select.select([self._signals, self._engine_fd], [], [])
        if self._signals in ready:
            return self._shut_down(server, api)
        api.engine_dead = True
        log("ERROR", "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.")
        return 1

    def _shut_down(self, server: Server, api: Api) -> int:
        log("INFO", "Shutting down")
        api.draining = True
        api.wait_idle(self._arguments.number("--shutdown-timeout", 0))
        server.socket.close()
        if self._behaviour.fail == "slow-stop":
            time.sleep(self._behaviour.stop_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._engine_pid, signal.SIGTERM)
        if self._behaviour.fail not in engine.ORPHANS:
            select.select([self._engine_fd], [], [])
        return 0


def _signal_pipe(*, ignore_term: bool) -> int:
    """A file that becomes readable with a SIGTERM; the handlers themselves do nothing."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore_term else lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignore_term else lambda *_: None)
    return reader


def main() -> None:
    arguments = parse(sys.argv[1:])
    check_model(arguments.model)
    code = Process(arguments).run()
    sys.stdout.flush()
    os._exit(code)
