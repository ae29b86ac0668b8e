"""What a server that we start for a short time needs around it: it dies with us, and has its memory to itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == int(sys.argv[1]) or sys.exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
"""PR_SET_PDEATHSIG, SIGKILL; then, when the parent is still the one in the first argument, the program in the others: a
server whose parent has gone meanwhile would get no configuration any more, and take its defaults."""
_GRACE = 2.0
_MANAGER = "systemd/private"
"""Where a manager listens, below its runtime directory."""


def apart(description: str) -> tuple[str, ...]:
    """Words before a command that put it into a scope of its own where we are a service: the limits of agentd's unit
    are for agentd. () elsewhere."""
    run = shutil.which("systemd-run")
    if run is None or "INVOCATION_ID" not in os.environ:
        return ()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    user = bool(runtime) and Path(runtime, _MANAGER).exists()
    if not user and not Path("/run", _MANAGER).exists():
        return ()  # The variable is inherited from a service around us, whose manager is not ours to ask.
    which = ("--user",) if user else ()
    return (run, *which, "--scope", "--quiet", "--collect", f"--description={description}", "--")


def bound_to_us() -> tuple[str, ...]:
    """Words before a command with which it dies when we do, also when we are killed. For a child of our main thread.

    setpriv(1) would do, but touches capabilities, which agentd's own sandbox does not allow.
    """
    # The interpreter below the virtual environment: nothing of the latter is needed.
    return (getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-c", _WITH_PARENT, str(os.getpid()))


async def lines(stream: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    """Of its output, without their ends; of what has no end the last 64 KiB."""
    rest = b""
    while data := await stream.read(65536):
        *whole, rest = (rest + data).split(b"\n")
        rest = rest[-65536:]
        for line in whole:
            yield line
    yield rest


def first_to_go(pid: int) -> None:
    """When memory is short."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"1000")


def handle(pid: int) -> int | None:
    """A pidfd; None when it has ended already, or the kernel has no such thing."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


@asynccontextmanager
async def killed_after(process: Process) -> AsyncIterator[None]:
    """At the end of the block it is killed where it still runs, and waited for, but not where the kernel holds it.

    By its handle: Process.kill() takes the exit status of one that has just ended away from asyncio.
    """
    own = handle(process.pid)
    try:
        yield
    finally:
        if own is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(own, signal.SIGKILL)
            os.close(own)
        elif process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await process.wait()


def signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def holds(pid: int, inodes: set[int]) -> bool:
    """Whether the process has one of these sockets open. Blocks, shortly."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError:
        return False
    for name in names:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{name}") in wanted:  # noqa: PTH115
                return True
    return False
