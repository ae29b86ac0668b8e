"""`weight_checks` for the loop: in a thread of its own, ended when nobody wants the result any more."""

from __future__ import annotations

import asyncio

from agentd.adapters import weight_checks
from agentd.adapters.file_threads import FileThreads, Pulse, Stopped
from agentd.adapters.weight_checks import Told
from agentd.errors import AgentdError
from agentd.ports_models import CheckedFiles

PATIENCE = 60.0
"""Seconds without an answer of the disk."""


def _nobody(done: int, whole: int) -> None:
    del done, whole


class WeightChecks:
    def __init__(self) -> None:
        self._threads = FileThreads()

    async def check(self, path: str, *, checksums: bool = False, told: Told = _nobody) -> CheckedFiles:
        """Cancelling leaves a thread that the disk holds behind. Raises AgentdError("file-stuck")."""
        pulse = Pulse()

        def work() -> CheckedFiles | None:
            try:
                return weight_checks.check(path, checksums=checksums, beat=pulse.beat, told=told)
            except Stopped:
                return None

        try:
            found = await self._threads.run(
                f"check the files of {path}", work, pulse=pulse if checksums else None, patience=PATIENCE
            )
        except asyncio.CancelledError:
            pulse.stop()
            raise
        if found is None:
            raise AgentdError("file-stuck", f"cannot check the files of {path}: it was ended")
        return found
