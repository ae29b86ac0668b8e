"""The process of a scratch LiteLLM: its log without secrets, its end in words, and that it is gone in the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence

from agentd.adapters import child
from agentd.core.redact import HIDDEN, redact
from agentd.errors import AgentdError

KEPT, WIDTH = 400, 400
"""Of its log: lines, and letters of one."""
_FAREWELL, _GRACE = 4.0, 10.0
"""Seconds to end by itself, and for the kernel to take a killed process away."""
_TELLING = 3
"""Lines that a failure is told in."""
_RUNTIME = "XDG_RUNTIME_DIR"
_SHORTEST = 6
"""Letters of a value that is masked: a shorter one is no secret, and stands in every other word."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_DULL = re.compile(r'^\s*(File ".*", line \d+|\^+|Traceback \(most|raise |await |return )|^[\s#═─│╭╰╮╯]*$|^INFO:')
STATUS = {1: "exit status 1, a failure at start", 3: "exit status 3, an error in its config or port"}


class ScratchProcess:
    def __init__(self, process: asyncio.subprocess.Process, secrets: Sequence[str]) -> None:
        self.pid = process.pid
        self.started = time.monotonic()
        self._process = process
        self._secrets = sorted((s for s in set(secrets) if len(s) >= _SHORTEST), key=len, reverse=True)
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._handle = child.handle(process.pid)
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], folder: str, *, secrets: Sequence[str]
    ) -> ScratchProcess:
        """`environment` is all that it gets. `secrets` are masked in its log. Raises AgentdError("gateway-start")."""
        given, around = dict(environment), child.apart("a LiteLLM that tries a config")
        if around:  # systemd-run finds the manager by our own; the program behind it gets its own back.
            around = (*around, "env", f"{_RUNTIME}={given.get(_RUNTIME, '')}")
            given[_RUNTIME] = os.environ.get(_RUNTIME, "")
        try:
            process = await asyncio.create_subprocess_exec(
                *around,
                *child.bound_to_us(),
                *command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=given,
                start_new_session=True,
            )
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            raise AgentdError("gateway-start", f"cannot run {command[0]}: {words}") from None
        child.first_to_go(process.pid)
        return cls(process, secrets)

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    def log(self, lines: int) -> tuple[str, ...]:
        return tuple(self._lines)[-lines:] if lines > 0 else ()

    def words(self) -> str:
        """How it ended, when it has, and the last lines that tell something, as one."""
        telling = [line for line in self._lines if not _DULL.search(line)]
        return ": ".join(part for part in (self._end_words(), "; ".join(telling[-_TELLING:])) if part)

    def _end_words(self) -> str:
        code = self._process.returncode
        if code is None:
            return ""
        return f"killed by {child.signal_name(-code)}" if code < 0 else STATUS.get(code, f"exit status {code}")

    async def gone(self) -> None:
        """It has ended, and all that it said was read."""
        await self._process.wait()
        await asyncio.shield(self._reader)

    async def end(self) -> None:
        """Asks it to end, then kills it. Not broken off by a cancellation."""
        await asyncio.shield(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        try:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._process.wait()
            self._signal(signal.SIGKILL)
            async with asyncio.timeout(_GRACE):
                await self.gone()
        except TimeoutError:  # It hangs in the kernel, or left a child that holds its output.
            self._reader.cancel()
            self._process._transport.close()  # type: ignore[attr-defined]
        finally:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _signal(self, number: signal.Signals) -> None:
        """By its handle: Process.kill() takes the exit status of one that has just ended away from asyncio."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._handle is None:
                self._process.send_signal(number)
            else:
                signal.pidfd_send_signal(self._handle, number)

    async def _read(self) -> None:
        out = self._process.stdout
        assert out is not None
        async for line in child.lines(out):
            self._note(line)

    def _note(self, raw: bytes) -> None:
        line = _COLOUR.sub("", raw.decode(errors="replace")).rstrip()
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        line = redact(line)[:WIDTH]
        if line:
            self._lines.append(line)
