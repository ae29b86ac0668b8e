"""The process of a scratch server: what it says, when it is ready, and that it is gone in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections import deque
from pathlib import Path

from agentd.adapters import child
from agentd.core.redact import redact
from agentd.errors import AgentdError

LINES, KEPT, WIDTH = 20, 500, 300
"""Of its log: given back, kept meanwhile (a crash is told in hundreds), and letters of one."""
_GRACE = 10.0
"""Seconds for the kernel to take a killed process away."""
_READY = "ready to accept connections"
_PREFIX = re.compile(r"^\d+:[A-Z] \d+ \w+ \d{4} [\d:.]+ [#*.-] ")
_DULL = re.compile(
    r"oO0OoO0|version=|Configuration loaded|Reading config from stdin|monotonic clock|Running mode=|Server initialized"
    r"|^WARNING |^\[info\]|^Increased maximum number|^You requested maxclients|^Loading RDB produced|^RDB (age|memory)"
    r"|^RDB is base AOF|^Done loading RDB|^Reading RDB base|^DB loaded from|^--- RDB ERROR|^=== |^------ "
    r"|Checking RDB file|Selecting DB ID"
)
_PRIVATE = re.compile(r"Reading key '")
"""It names a key of the user's."""
_CRASH = re.compile(r"crashed by signal|ASSERTION FAILED|Guru Meditation")
_TAKEN_OVER = ("PATH", "LD_LIBRARY_PATH", "TZ", "XDG_RUNTIME_DIR")
"""Of our environment; the last one is where the manager listens."""
_TELLING = 4
"""Lines that a failure is told in."""


class ScratchProcess:
    def __init__(self, process: asyncio.subprocess.Process, program: str) -> None:
        self.started = time.monotonic()
        self._process = process
        self._program = program
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._handle = child.handle(process.pid)
        self._ready = asyncio.Event()
        self._said = asyncio.Event()
        """Ready, or all that it will ever say has been said."""
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def start(cls, program: str, folder: Path) -> ScratchProcess:
        """It waits for its configuration, which says everything: nothing of it is in its arguments or environment."""
        environment = {name: os.environ[name] for name in _TAKEN_OVER if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                *child.apart("a copy of a store, loaded to count"),
                *child.bound_to_us(),
                program,
                "-",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**environment, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as error:
            raise AgentdError("drill-failed", f"cannot run {program}: {(error.strerror or '').lower()}") from None
        # By its own setting it is only after it has loaded everything.
        child.first_to_go(process.pid)
        return cls(process, program)

    @property
    def log(self) -> tuple[str, ...]:
        return tuple(self._lines)[-LINES:]

    @property
    def words(self) -> str:
        """How it ended, when a signal did it, and the last lines that tell something, as one."""
        lines = [line for line in self._lines if not _DULL.search(line)]
        told = [line for line in lines if _CRASH.search(line)] or lines
        return "; ".join([*_signal(self._process.returncode), *told[-_TELLING:]])

    async def begin(self, config: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # It has ended; what it said tells why.
            stdin.write(config.encode())
            await stdin.drain()
            stdin.close()
            await stdin.wait_closed()

    async def ready(self, directory: str) -> None:
        """Raises AgentdError("drill-failed") when it ends before it has loaded everything."""
        await self._said.wait()
        if not self._ready.is_set():
            await self.gone()
            raise self.failed(f"it cannot load {directory}")

    async def gone(self) -> None:
        await self._process.wait()

    async def end(self) -> None:
        """Kills it where it still runs. Not broken off by a cancellation."""
        await asyncio.shield(asyncio.ensure_future(self._end()))

    def failed(self, what: str) -> AgentdError:
        name = os.path.basename(self._program)  # noqa: PTH119
        return AgentdError("drill-failed", f"{name} was started on the copy, but {what}: {self.words or 'no word'}")

    async def _end(self) -> None:
        try:
            self._kill()
            async with asyncio.timeout(_GRACE):
                await self._process.wait()
                await self._reader
        except TimeoutError:  # It hangs in the kernel, or left a child that holds its output.
            self._reader.cancel()
            self._process._transport.close()  # type: ignore[attr-defined]
        finally:
            if self._handle is not None:
                os.close(self._handle)

    def _kill(self) -> None:
        """By its handle: Process.kill() takes the exit status of one that has just ended away from asyncio."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._handle is None:
                self._process.kill()
            else:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def _read(self) -> None:
        out = self._process.stdout
        assert out is not None
        async for line in child.lines(out):
            self._note(line)
        self._said.set()

    def _note(self, raw: bytes) -> None:
        line = redact(_PREFIX.sub("", raw.decode(errors="replace").strip()))[:WIDTH]
        if line and not _PRIVATE.search(line):
            self._lines.append(line)
        if _READY in line.lower():
            self._ready.set()
            self._said.set()


def _signal(status: int | None) -> list[str]:
    if status is None or status >= 0:
        return []
    return [f"it was killed by {child.signal_name(-status)}"]
