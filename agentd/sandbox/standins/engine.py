"""The engine processes of the stand-in vLLM: they hold the GPU memory, fail as the real ones fail, and may outlive.

Like vLLM's EngineCore it is a child without a death pipe: a SIGKILL of the API server leaves it behind. With tensor
parallelism it has a worker on each GPU, and those have one: they end with it, and it ends with any of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from agentd.sandbox.standins import loading, vllm_log
from agentd.sandbox.standins.behaviour import Behaviour
from agentd.sandbox.standins.mapping import Holder, Mapping
from agentd.sandbox.standins.title import set_title

ORPHANS = ("orphan", "escaped-orphan")
STRAY_CGROUP = "/sys/fs/cgroup/stray"


@dataclass(frozen=True, slots=True)
class Started:
    """An engine that loads; `pipe` ends with "ready" or with "failed"."""

    pid: int
    holders: tuple[Holder, ...]
    pipe: int


def start(mapping: Mapping, behaviour: Behaviour, plan: loading.Plan, closing: Callable[[], None]) -> Started:
    """Fork the engine. `closing` drops what the child must not hold, such as the bound port."""
    orphan = behaviour.fail in ORPHANS
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        closing()
        if orphan:
            os.setsid()
            if os.fork():
                os._exit(0)
        _live(mapping, behaviour, plan, writer)
    os.close(writer)
    pids = [int(word) for word in _line(reader).split()]
    if orphan:
        os.waitpid(child, 0)
    return Started(pids[0], mapping.holders(pids), reader)


def _live(mapping: Mapping, behaviour: Behaviour, plan: loading.Plan, writer: int) -> NoReturn:
    stubborn = behaviour.fail in (*ORPHANS, "ignore-sigterm")
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if behaviour.fail == "escaped-orphan":
        _leave_cgroup()
    set_title("VLLM::EngineCore")
    workers = _workers(len(mapping.gpus), writer)
    pids = [os.getpid(), *workers]
    os.write(writer, (" ".join(map(str, pids)) + "\n").encode())
    mapping.hold(mapping.holders(pids))
    try:
        loading.load(mapping, behaviour, plan)
    except loading.LoadError as error:
        vllm_log.traceback("EngineCore", "core.py:1510", "EngineCore failed to start.", str(error))
        os.write(writer, b"failed\n")
        os._exit(1)
    os.write(writer, b"ready\n")
    os.close(writer)
    _stay(workers)


def _workers(count: int, writer: int) -> list[int]:
    """One per GPU where there are several; a lone GPU is held by the engine itself."""
    if count < 2:
        return []
    alive, death = os.pipe()
    pids = []
    for rank in range(count):
        pid = os.fork()
        if not pid:
            os.close(death)
            os.close(writer)
            set_title(f"VLLM::Worker_TP{rank}")
            os.read(alive, 1)
            os._exit(0)
        pids.append(pid)
    os.close(alive)
    return pids


def _stay(workers: list[int]) -> NoReturn:
    """Hold the memory until the end, which some do not accept."""
    if workers:
        pid, _ = os.wait()
        vllm_log.say("EngineCore", "multiproc_executor.py:279", f"Worker proc VllmWorker-{workers.index(pid)} died "
                     "unexpectedly, shutting down executor.", level="ERROR")  # fmt: skip
        os._exit(1)
    while True:
        signal.pause()


def _leave_cgroup() -> None:
    """Out of the unit's cgroup, to where systemd does not look; only a sandbox lets us."""
    stray = Path(STRAY_CGROUP)
    try:
        stray.mkdir(exist_ok=True)
        (stray / "cgroup.procs").write_text("0")
    except OSError as error:
        vllm_log.bare(f"stand-in: cannot leave the unit's cgroup: {error}")


def _line(reader: int) -> str:
    data = b""
    while not data.endswith(b"\n"):
        part = os.read(reader, 1)
        if not part:
            return "0"
        data += part
    return data.decode()
