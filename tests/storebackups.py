"""Backups, drills and restores of a real server, with what they need put together."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from redisdata import snapshot
from redisserver import RedisServer

from agentd.adapters.clock import SystemClock
from agentd.adapters.redis import RedisClient
from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.adapters.redis_scratch import LocalScratchServers
from agentd.engine.steps import Step
from agentd.errors import AgentdError
from agentd.managers.redis.backup import BackupResult, Backups
from agentd.managers.redis.drill import DrillResult, drill
from agentd.managers.redis.restore import Check, RestoreResult, restore
from agentd.ports_redis import RedisAdmin, Target

NAMES = ("dir", "dbfilename", "appenddirname", "appendfilename", "appendonly")
PLENTY = 1 << 50
"""Bytes of memory."""
NOBODY = 65534


class Rig:
    """`progress` hears every step; `seen` keeps them."""

    def __init__(self, server: RedisServer, files: LocalBackupFiles | None = None, memory: int = PLENTY) -> None:
        self.server = server
        self.files = files or LocalBackupFiles()
        self.scratch = LocalScratchServers(server.executable)
        self.memory = memory
        self.admin: RedisAdmin = RedisClient(Target("store", server.url), timeout=20)
        self.backups = server.folder / "backups"
        self.place = server.folder / "drill"
        self.seen: list[str] = []
        self.listener: Step | None = None

    async def __aenter__(self) -> Rig:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.admin.close()

    async def progress(self, step: str, detail: str) -> None:
        self.seen.append(step)
        if self.listener is not None:
            await self.listener(step, detail)

    async def running(self) -> Mapping[str, str]:
        return await self.admin.config(NAMES)

    async def take(self, keep: int | None = None, *, name: str = "store", target: Path | None = None) -> BackupResult:
        backups = Backups(self.admin, self.files, self.scratch, SystemClock(), lambda: self.memory)
        return await backups.take(
            name,
            await self.running(),
            str(target or self.backups),
            keep,
            timeout=60,
            executable="",
            progress=self.progress,
        )

    async def drill(self, **effective: str) -> DrillResult:
        """`effective`: what the file says other than the running server."""
        running = await self.running()
        return await drill(
            self.admin,
            self.files,
            self.scratch,
            SystemClock(),
            running,
            {**running, **effective},
            place=str(self.place),
            executable="",
            memory_available=lambda: self.memory,
            timeout=60,
            progress=self.progress,
        )

    async def restore(
        self, backup: str, into: Path | None = None, *, check_only: bool = False, in_use: Any = None, **names: str
    ) -> RestoreResult:
        async def nobody() -> str:
            return ""

        return await restore(
            Check(self.files, self.scratch, str(Path(backup).parent), "", lambda: self.memory, timeout=60),
            backup,
            into=str(into or self.server.data),
            names=names,
            clock=SystemClock(),
            check_only=check_only,
            in_use=in_use or nobody,
            progress=self.progress,
        )

    async def snapshot(self) -> tuple[str, dict[int, int], str]:
        return await asyncio.to_thread(snapshot_of, self.server)


def snapshot_of(server: RedisServer) -> tuple[str, dict[int, int], str]:
    with server.client(decode_responses=False, socket_timeout=120) as client:
        return snapshot(client)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@asynccontextmanager
async def refused(kind: str) -> AsyncIterator[list[AgentdError]]:
    errors: list[AgentdError] = []
    with pytest.raises(AgentdError) as caught:
        yield errors
    errors.append(caught.value)
    assert caught.value.kind == kind, caught.value


async def cancelled_at(rig: Rig, step: str, work: Coroutine[Any, Any, object]) -> None:
    """Cancelled in the midst of this step."""
    reached = asyncio.Event()

    async def progress(now: str, detail: str) -> None:
        if now == step:
            reached.set()

    rig.listener = progress
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(reached.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@contextmanager
def transactions(server: RedisServer) -> Iterator[Callable[[], int]]:
    """Clients that write the same number to three keys at once, for ever; how far they came."""
    done = threading.Event()
    count = [0]

    def write() -> None:
        with server.client() as client:
            while not done.is_set():
                count[0] += 1
                with client.pipeline(transaction=True) as pipe:
                    for name in ("a", "b", "c"):
                        pipe.set(name, count[0])
                    pipe.rpush(f"list:{count[0] % 50}", count[0])
                    pipe.execute()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: count[0]
    finally:
        done.set()
        thread.join()


@contextmanager
def as_nobody(*folders: Path) -> Iterator[None]:
    """An ordinary user, who owns these folders; as such a user already, nothing."""
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        folder.mkdir(exist_ok=True)
        os.chown(folder, NOBODY, NOBODY)
        for parent in folder.parents:
            if parent.stat().st_mode & 0o001 == 0:
                parent.chmod(0o711)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
