"""A probe that is a command: it must exit with status 0."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from agentd.core.redact import redact
from agentd.errors import AgentdError

LARGEST_COMPLAINT = 4096
OWN_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What systemd told us and nobody else."""


async def run(argv: Sequence[str], timeout: float) -> None:
    """Raises AgentdError with how it ended and its last line; on a timeout its whole process group is killed."""
    complaint = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        status = await _run(argv, timeout, complaint)
        if status != 0:
            raise AgentdError("probe-failed", f"{argv[0]} {_ending(status)}{_last_line(complaint)}")
    finally:
        os.close(complaint)


async def _run(argv: Sequence[str], timeout: float, complaint: int) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise AgentdError(
            "probe-failed", f"cannot run {argv[0]}: {os.strerror(error.errno).lower() if error.errno else error}"
        ) from None
    try:
        async with asyncio.timeout(timeout):
            return await process.wait()
    except TimeoutError:
        raise AgentdError("probe-timeout", f"cannot wait for {argv[0]}: still running after {timeout:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
    return f"was killed by {name}"


def _last_line(complaint: int) -> str:
    size = os.fstat(complaint).st_size
    text = os.pread(complaint, LARGEST_COMPLAINT, max(0, size - LARGEST_COMPLAINT)).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {redact(lines[-1][:200])}" if lines else ""
