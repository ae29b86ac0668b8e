"""agentd's part for stores, whole, on a real server: all that the daemon wires but D-Bus and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from redisserver import RedisServer

from agentd.adapters.clock import SystemClock
from agentd.adapters.credentials import password_source
from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.adapters.inotify import Inotify
from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.redis import RedisClient
from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.adapters.redis_scratch import LocalScratchServers
from agentd.adapters.store import SqliteStore
from agentd.core.schema import Settings
from agentd.core.schema_redis import RedisPolicy
from agentd.engine.changes import ChangeBook
from agentd.engine.events import EventLog
from agentd.engine.steps import Steps
from agentd.engine.world import World
from agentd.managers.redis.actions import ActionParts, RedisActions
from agentd.managers.redis.context import RedisPorts
from agentd.managers.redis.guard import Guard
from agentd.managers.redis.look import Looker
from agentd.managers.redis.manager import RedisManager
from agentd.managers.redis.records import Records
from agentd.managers.redis.watcher import WatcherParts
from agentd.ports_redis import RedisAdmin, Target
from agentd.stores import Durability, Launch, StoreStatus
from agentd.types import Change

SECONDS = 30.0


class Files(LocalBackupFiles):
    """There is no unit behind the server: what its ExecStart= would say comes from the test."""

    def __init__(self, argv: Callable[[], tuple[str, ...]]) -> None:
        super().__init__()
        self.argv = argv

    async def launch(self, pid: int) -> Launch:
        found = await super().launch(pid)
        return dataclasses.replace(found, unit="test-redis.service", scope="user", argv=self.argv(), problem="")


class Rig:
    """`running()` is one life of agentd; the state directory outlives it."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self.server = server
        self.state = folder / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.connect: Callable[[Target], RedisAdmin] = RedisClient
        self.files = Files(lambda: self.server.argv)

    @contextlib.asynccontextmanager
    async def running(self, **policy: object) -> AsyncIterator[Life]:
        settings = Settings(redis=RedisPolicy(url=self.server.url, **policy))  # type: ignore[arg-type]
        life = Life(self, settings)
        await life.start()
        try:
            yield life
        finally:
            await life.stop()


class Life:
    def __init__(self, rig: Rig, settings: Settings) -> None:
        self.settings = settings
        clock, kernel, state = SystemClock(), LinuxKernel(), rig.state / "redis"
        self.journal = SqliteStore(rig.state / "journal.sqlite", event_history=1000)
        self.events = EventLog(self.journal, clock)
        self.changes = ChangeBook(self.journal)
        self.world = World(clock)
        own = LocalFiles([state], mode=0o600)
        self.ports = RedisPorts(rig.files, LocalScratchServers(), rig.connect, kernel, clock, own, str(state))
        self.records = Records(own, str(state))
        looker, guard = Looker(self.ports, self.records), Guard(self.ports, self.records, self.events)
        steps = Steps(self.journal, self.changes, self.events, clock)

        def lock(name: str) -> contextlib.AbstractAsyncContextManager[None]:
            return FileLock(state / f"{name}.lock").hold()

        backups = str(rig.state / "backups")
        self.actions = RedisActions(ActionParts(self.ports, steps, looker, self.records, guard, lock, backups))
        seen = self.world.seen
        parts = WatcherParts(self.ports, looker, self.records, guard, self.actions, self.events, seen)
        self.manager = RedisManager(self.ports, parts, self.actions, Inotify(), password_source, self.world)

    async def start(self) -> None:
        await self.journal.open()
        await self.events.load()
        await self.changes.load()
        self.events_task = asyncio.ensure_future(self.events.run())
        await self.manager.recover()
        await self.manager.apply(self.settings)

    async def stop(self) -> None:
        await self.actions.close()
        await self.manager.close()
        self.events_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.events_task
        await self.journal.close()

    @property
    def status(self) -> StoreStatus:
        (status,) = self.manager.statuses()
        return status

    async def verified(self) -> StoreStatus:
        (status,) = await self.manager.verify("")
        await self.manager.ensure()
        return status

    async def until(self, condition: Callable[[StoreStatus], bool], seconds: float = SECONDS) -> StoreStatus:
        """The first status that fits, as the watcher publishes it."""
        async with asyncio.timeout(seconds):
            while not condition(self.status):
                await self.manager.ensure()
                await asyncio.sleep(0.02)
        return self.status

    async def durable(self, seconds: float = SECONDS) -> StoreStatus:
        try:
            return await self.until(lambda s: s.durability is Durability.DURABLE and not s.enforcing, seconds)
        except TimeoutError:
            messages = [event.message for event in self.events.recent(20)]
            raise AssertionError(f"not durable: {self.status.summary}; {messages}; {self.status.findings}") from None

    async def enforce(self, *, accept_loss: bool = False) -> Change:
        """Asked for, and followed to its end."""
        _, task = await self.actions.enforce(self.manager.store(""), accept_loss=accept_loss)
        change = await task
        self.manager.follow(change, task)
        return change

    def told(self, kind: str) -> list[str]:
        return [event.message for event in self.events.recent(1000) if event.kind == kind]


async def aside(work: Callable[[], object]) -> object:
    """Something that blocks, beside the loop."""
    return await asyncio.to_thread(work)
