"""systemd's own static exposure score of a unit, by `systemd-analyze security`: of what is written, not what holds."""

from __future__ import annotations

import asyncio
import contextlib
import re

from agentd.types import Scope

TIMEOUT = 20.0
_OVERALL = re.compile(r"[Oo]verall exposure level for \S+: ([0-9.]+)")


class SystemdAnalyze:
    def __init__(self, scope: Scope, program: str = "systemd-analyze") -> None:
        self._scope = scope
        self._program = program

    async def exposure(self, unit: str) -> float | None:
        """From 0 to 10, or None where the program is missing, fails or takes too long."""
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                f"--{self._scope.value}",
                "security",
                "--no-pager",
                "--",
                unit,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            return None
        try:
            async with asyncio.timeout(TIMEOUT):
                out, _ = await process.communicate()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        found = _OVERALL.search(out.decode(errors="replace"))
        return float(found[1]) if found else None
