"""What the kernel really does for a unit, read from procfs and cgroupfs without rights of our own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from agentd.adapters.file_threads import answer_from
from agentd.adapters.inspect_cgroup import Cgroups
from agentd.adapters.inspect_host import read_host
from agentd.adapters.inspect_paths import look_at
from agentd.adapters.inspect_process import Reader, read_namespaces
from agentd.errors import AgentdError
from agentd.evidence import HostEvidence, UnitEvidence
from agentd.types import Scope

TIMEOUT = 15.0
"""Seconds. A path on a dead network mount can hold whoever looks at it for ever."""

Result = TypeVar("Result")


class LinuxInspector:
    """The Inspector port. One inspection at a time, each in a thread that ends with it, so that an idle daemon keeps
    none. Raises AgentdError("inspection-stuck") when the kernel does not answer; everything else is in the records."""

    def __init__(self, *, timeout: float = TIMEOUT, mountinfo: str = "") -> None:
        """`mountinfo`: a text instead of /proc/self/mountinfo, only for tests."""
        self._timeout = timeout
        self._mountinfo = mountinfo
        self._one = asyncio.Lock()
        self._thread: threading.Thread | None = None

    async def unit(self, control_group: str, paths: Sequence[str]) -> UnitEvidence:
        return await self._aside(f"inspect {control_group}", lambda: read_unit(control_group, paths, self._mountinfo))

    async def host(self, scope: Scope, manager: Mapping[str, object]) -> HostEvidence:
        return await self._aside("inspect the host", lambda: read_host(scope, manager, self._mountinfo))

    async def _aside(self, doing: str, function: Callable[[], Result]) -> Result:
        async with self._one:
            if self._thread is not None and self._thread.is_alive():
                raise AgentdError(
                    "inspection-stuck", f"cannot {doing}: an earlier inspection still hangs in the kernel"
                )
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Result] = loop.create_future()
            self._thread = threading.Thread(
                target=answer_from, args=(function, answer, loop), name="inspect", daemon=True
            )
            self._thread.start()
            try:
                async with asyncio.timeout(self._timeout):
                    result = await answer
            except TimeoutError as error:
                why = f"the kernel did not answer within {self._timeout:g} s"
                raise AgentdError("inspection-stuck", f"cannot {doing}: {why}") from error
            self._thread.join()  # It has handed over its result and ends now.
            return result


def read_unit(control_group: str, paths: Sequence[str], mountinfo: str = "") -> UnitEvidence:
    """Blocks, for some milliseconds of CPU time."""
    cpu = time.thread_time()
    cgroups = Cgroups(mountinfo)
    paths = tuple(dict.fromkeys(paths))
    processes = Reader(paths).read_all(cgroups.pids(control_group))
    own, root = (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in ("/proc/self", "/"))
    try:
        namespaces, own_paths = read_namespaces(own), look_at(root, paths)
    finally:
        os.close(own)
        os.close(root)
    return UnitEvidence(
        control_group=control_group,
        levels=cgroups.levels(control_group),
        processes=processes,
        own_namespaces=namespaces,
        own_paths=own_paths,
        read_at=time.time(),
        cpu_seconds=time.thread_time() - cpu,
    )
