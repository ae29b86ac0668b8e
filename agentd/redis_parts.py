"""The wiring of the stores: watching, enforcement, backups, and what the API sees of them, put together once."""

from __future__ import annotations

from agentd import paths
from agentd.adapters.credentials import password_source
from agentd.adapters.filelock import FileLock
from agentd.adapters.files import LocalFiles
from agentd.adapters.inotify import Inotify
from agentd.adapters.redis import RedisClient
from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.adapters.redis_scratch import LocalScratchServers
from agentd.core.schema import Settings
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
from agentd.ports import Clock, Kernel, Store
from agentd.surface_redis import RedisSurface
from agentd.types import Scope


class RedisParts:
    """The manager for the loop, the surface for the API."""

    def __init__(
        self,
        scope: Scope,
        kernel: Kernel,
        clock: Clock,
        store: Store,
        changes: ChangeBook,
        events: EventLog,
        world: World,
    ) -> None:
        state = paths.state_dir(system=scope is Scope.SYSTEM) / "redis"
        ports = RedisPorts(
            LocalBackupFiles(),
            LocalScratchServers(),
            RedisClient,
            kernel,
            clock,
            LocalFiles([state], mode=0o600),
            str(state),
        )
        records = Records(ports.state_files, str(state))
        looker = Looker(ports, records)
        guard = Guard(ports, records, events)
        steps = Steps(store, changes, events, clock)
        self.actions = RedisActions(
            ActionParts(
                ports,
                steps,
                looker,
                records,
                guard,
                lambda name: FileLock(state / f"{name}.lock", purpose=f"change {name}").hold(),
                str(state.parent / "backups"),
            )
        )
        parts = WatcherParts(ports, looker, records, guard, self.actions, events, world.seen)
        self.manager = RedisManager(ports, parts, self.actions, Inotify(), password_source, world)
        self.surface = RedisSurface(self.manager, self.actions)

    async def start(self, settings: Settings) -> None:
        """Nobody waits here for a server: each is asked by a task of its own. Raises AgentdError."""
        await self.manager.recover()
        await self.manager.apply(settings)

    async def close(self) -> None:
        await self.actions.close()
        await self.manager.close()
