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

from agentd.sandbox.gpu import Memory
from agentd.sandbox.standins import behaviour, engine, loading, vllm_log
from agentd.sandbox.standins.mapping import Mapping
from agentd.sandbox.standins.vllm_dev import make_handler
from agentd.sandbox.standins.vllm_state import Api
from agentd.sandbox.standins.web import POLL_SECONDS, Server, UnixServer

_LAST_WORDS = 0.1
"""Seconds for the answers to what was asked of an engine that has died."""
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
        print(behaviour.Behaviour().version)
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
        vllm_log.bare(
            f"OSError: Can't load the configuration of '{model}'. Make sure it is the correct path to a directory"
        )
        raise SystemExit(1)


class Process:
    """The API server: loads, serves until SIGTERM or the engine's death, and ends as vLLM does."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._behaviour = behaviour.load(arguments.served_name)
        self._signals = _signal_pipe(ignore_term=self._behaviour.fail == "ignore-sigterm")
        self._engine = engine.Started(0, (), -1)
        self._engine_fd = -1

    def run(self) -> int:
        if self._behaviour.fail == "exit-at-once":
            vllm_log.bare(self._behaviour.message or "torch.OutOfMemoryError: CUDA out of memory.")
            return self._behaviour.exit_code
        arguments = self._arguments
        version = self._behaviour.version
        vllm_log.say("APIServer", vllm_log.BANNER_PLACE, f"version {version} (stand-in)\nmodel   {arguments.model}")
        mapping = Mapping(self._behaviour, self._gpus(), arguments.number("--gpu-memory-utilization", 0.9))
        api = Api(arguments.served_name, arguments.flags, self._behaviour, mapping)
        try:
            server = self._bind(api)
        except OSError as error:
            vllm_log.bare(f"OSError: [Errno {error.errno}] {error.strerror}")
            return 1
        if not self._load(mapping, server):
            vllm_log.bare("RuntimeError: Engine core initialization failed. See root cause above.")
            return self._behaviour.exit_code
        mapping.hold(self._engine.holders)
        return self._serve(server, api)

    def _bind(self, api: Api) -> Server:
        arguments = self._arguments
        if path := arguments.text("--uds"):
            return UnixServer(path, make_handler(api))
        return Server(arguments.text("--host", "127.0.0.1"), int(arguments.number("--port", 8000)), make_handler(api))

    def _gpus(self) -> list[int]:
        """One for each rank. Raises SystemExit, with vLLM's words, when there are too few."""
        wanted = int(self._arguments.number("--tensor-parallel-size", self._arguments.number("-tp", 1)))
        memory = Memory.from_environment()
        shown = list(range(wanted)) if memory is None else memory.visible()
        if not shown:
            raise SystemExit("RuntimeError: No CUDA GPUs are available")
        if len(shown) < wanted:
            raise SystemExit(
                f"ValueError: World size ({wanted}) is larger than the number of available GPUs ({len(shown)}) in this "
                "node."
            )
        return shown[:wanted]

    def _load(self, mapping: Mapping, server: Server) -> bool:
        """Start the engine and wait for it; True once it is ready."""
        plan = loading.Plan(self._arguments.model, "--enforce-eager" in self._arguments.flags)
        self._engine = engine.start(mapping, self._behaviour, plan, server.socket.close)
        self._engine_fd = os.pidfd_open(self._engine.pid)
        ready, _, _ = select.select([self._engine.pipe, self._signals], [], [])
        if self._signals in ready:
            self._interrupt()
        return os.read(self._engine.pipe, 64) == b"ready\n"

    def _interrupt(self) -> None:
        """SIGTERM while loading: vLLM raises KeyboardInterrupt, kills the engine and ends by SIGINT."""
        if self._behaviour.fail not in engine.ORPHANS:
            os.kill(self._engine.pid, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    def _serve(self, server: Server, api: Api) -> int:
        api.engine_pid = self._engine.pid
        try:
            server.server_activate()
        except OSError as error:
            vllm_log.bare(f"OSError: [Errno {error.errno}] {error.strerror}")
            return 1
        threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        vllm_log.bare(f"INFO:     Started server process [{os.getpid()}]")
        vllm_log.bare("INFO:     Application startup complete.")
        ready, _, _ = select.select([self._signals, self._engine_fd], [], [])
        if self._signals in ready:
            return self._shut_down(server, api)
        api.engine_dead = True
        vllm_log.say(
            "APIServer",
            "async_llm.py:758",
            "AsyncLLM output_handler failed.\nvllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an "
            "issue. See stack trace (above) for the root cause.",
            level="ERROR",
        )
        time.sleep(_LAST_WORDS)
        return 0

    def _shut_down(self, server: Server, api: Api) -> int:
        """Drain for --shutdown-timeout; then the engine ends, and the server when its last client has left.

        The real one aborts what runs, but its engine may be gone before the last answer is out: "stop-hangs".
        """
        vllm_log.say("APIServer", "launcher.py:257", "[shutdown] API server: shutdown triggered")
        api.draining = True
        api.wait_idle(self._arguments.number("--shutdown-timeout", 0))
        server.socket.close()
        if self._behaviour.fail == "stop-hangs":
            api.stop()
        else:
            api.abort()
        if self._behaviour.fail == "slow-stop":
            time.sleep(self._behaviour.stop_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._engine.pid, signal.SIGTERM)
        if self._behaviour.fail not in engine.ORPHANS:
            select.select([self._engine_fd], [], [])
        vllm_log.bare("INFO:     Shutting down")
        api.wait_idle(None)
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
