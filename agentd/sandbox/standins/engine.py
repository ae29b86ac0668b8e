"""The engine process of the stand-in vLLM: it holds the GPU memory, fails as the real one fails, and may outlive.

Like vLLM's EngineCore it is a child without a death pipe: a SIGKILL of the API server leaves it behind.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from agentd.sandbox.gpu import GIB, Memory
from agentd.sandbox.standins.behaviour import Behaviour
from agentd.sandbox.standins.title import set_title
from agentd.sandbox.standins.web import log

CONTEXT_BYTES = 256 * 1024**2
"""What a CUDA context takes before any weight is loaded."""
_PROFILING_SLACK = 64 * 1024**2
ORPHANS = ("orphan", "escaped-orphan")
STRAY_CGROUP = "/sys/fs/cgroup/stray"


class LoadError(Exception):
    """The engine cannot start; the text is what it prints."""


class Engine:
    """Runs in the forked child, except for `resize`, which the API server calls."""

    def __init__(self, behaviour: Behaviour, utilization: float, gpu: int = 0) -> None:
        self._behaviour = behaviour
        self._utilization = utilization
        self._gpu = gpu
        self.memory = Memory.from_environment()
        total = self.memory.cards()[gpu].total if self.memory else 0
        self.size = behaviour.vram_bytes or int(total * utilization)
        self._total = total

    def load(self) -> None:
        """Take the memory, in the time and with the failures that were asked for."""
        baseline = self._check_free()
        self.resize(os.getpid(), CONTEXT_BYTES)
        log("INFO", "Starting to load model...")
        seconds = self._behaviour.load_seconds
        if self._behaviour.fail == "die-while-loading":
            time.sleep(seconds / 2)
            raise LoadError(
                self._behaviour.message
                or "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity "
                f"of {self._total / GIB:.2f} GiB of which 0.31 GiB is free."
            )
        self._wait(seconds * 0.6)
        log("INFO", f"Loading weights took {seconds * 0.6:.2f} seconds")
        self.resize(os.getpid(), int(self.size * 0.6))
        self._wait(seconds * 0.4)
        self._check_profiling(baseline)
        self.resize(os.getpid(), self.size)
        while self._behaviour.fail == "never-ready":
            signal.pause()
        log("INFO", "Graph capturing finished")

    @staticmethod
    def _wait(seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)

    def _check_free(self) -> int:
        if self.memory is None:
            return 0
        free = self.memory.free(self._gpu)
        wanted = self._total * self._utilization
        if free < max(wanted, self.size):
            raise LoadError(
                f"ValueError: Free memory on device cuda:{self._gpu} ({free / GIB:.2f}/{self._total / GIB:.2f} GiB) on "
                f"startup is less than desired GPU memory utilization ({self._utilization}, {wanted / GIB:.2f} GiB). "
                "Decrease GPU memory utilization or reduce GPU memory used by other processes."
            )
        return free

    def _check_profiling(self, baseline: int) -> None:
        """Free memory must not grow while the engine measures what it may take."""
        if self.memory is None:
            return
        own = int(self.size * 0.6)
        now = self.memory.free(self._gpu) + own
        if now > baseline + _PROFILING_SLACK:
            raise LoadError(
                f"AssertionError: Error in memory profiling. Initial free memory {baseline / GIB:.2f} GiB, current "
                f"free memory {now / GIB:.2f} GiB. This happens when other processes sharing the same container "
                "release GPU memory while vLLM is profiling during initialization."
            )

    def resize(self, pid: int, size: int) -> None:
        if self.memory is not None:
            self.memory.claim(pid, size, gpu=self._gpu, release_seconds=self._behaviour.vram_release_seconds)

    def stay(self) -> None:
        """Hold the memory until the end, which some do not accept."""
        while True:
            signal.pause()


def start(engine: Engine, behaviour: Behaviour, closing: Callable[[], None]) -> tuple[int, int]:
    """Fork the engine; its pid, and a pipe that ends with "ready" or with why it failed.

    `closing` drops what the child must not hold, such as the bound port.
    """
    orphan = behaviour.fail in ORPHANS
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        pid = int(_line(reader))
        if orphan:
            os.waitpid(child, 0)
        return pid, reader
    os.close(reader)
    closing()
    if orphan:
        os.setsid()
        if os.fork():
            os._exit(0)
    _live(engine, behaviour, writer)
    os._exit(0)


def _live(engine: Engine, behaviour: Behaviour, writer: int) -> None:
    stubborn = behaviour.fail in (*ORPHANS, "ignore-sigterm")
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if behaviour.fail == "escaped-orphan":
        _leave_cgroup()
    set_title("VLLM::EngineCore")
    os.write(writer, f"{os.getpid()}\n".encode())
    try:
        engine.load()
    except LoadError as error:
        log("ERROR", f"EngineCore failed to start. {error}")
        os.write(writer, b"failed\n")
        os._exit(1)
    os.write(writer, b"ready\n")
    os.close(writer)
    engine.stay()


def _leave_cgroup() -> None:
    """Out of the unit's cgroup, to where systemd does not look; only a sandbox lets us."""
    stray = Path(STRAY_CGROUP)
    try:
        stray.mkdir(exist_ok=True)
        (stray / "cgroup.procs").write_text("0")
    except OSError as error:
        log("WARNING", f"stand-in: cannot leave the unit's cgroup: {error}")


def _line(reader: int) -> str:
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(reader, 1)
        if not part:
            return "0"
        data += part
    return data.decode()
