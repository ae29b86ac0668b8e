"""Stores, watched: each is looked at when it starts, when its file changes, and every half a minute; what is not as the
policy says is mended where that is safe, and told where it is not. Everybody else reads the snapshot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from agentd.core.schema import Settings
from agentd.engine.world import World
from agentd.errors import AgentdError
from agentd.findings import Finding
from agentd.managers.redis.actions import RedisActions
from agentd.managers.redis.context import RedisPorts, Store
from agentd.managers.redis.stores import stores
from agentd.managers.redis.watcher import Watcher, WatcherParts
from agentd.ports_hardening import FileWatch
from agentd.ports_redis import Target
from agentd.stores import Durability, StoreStatus
from agentd.types import Change

log = logging.getLogger(__name__)

BAD = (Durability.DATA_LOSS, Durability.AT_RISK)
Password = Callable[[str, str], Callable[[], str] | None]
"""(file, credential) -> what reads it anew each time."""


class RedisManager:
    name = "redis"

    def __init__(
        self,
        ports: RedisPorts,
        parts: WatcherParts,
        actions: RedisActions,
        watch: FileWatch,
        password: Password,
        world: World,
    ) -> None:
        self._ports = ports
        self._parts = parts
        self._actions = actions
        self._watch = watch
        self._password = password
        self._world = world
        self._watchers: dict[str, Watcher] = {}
        self._pids: dict[str, int] = {}
        self._watching: tuple[str, ...] = ()
        self._again: set[str] = set()

    # -- what the snapshot says -------------------------------------------------------------------------------

    def statuses(self) -> Sequence[StoreStatus]:
        return tuple(watcher.status for watcher in self._watchers.values())

    def findings(self) -> tuple[Finding, ...]:
        return tuple(finding for status in self.statuses() for finding in status.findings)

    def problems(self) -> list[str]:
        """What keeps agentd from being ready."""
        return [f"{s.name}: {s.durability.value}: {s.summary}" for s in self.statuses() if s.durability in BAD]

    def busy(self, unit: str) -> str:
        """Id of the change that runs on the store with that unit: it must not be stopped meanwhile."""
        names = [name for name, watcher in self._watchers.items() if watcher.store.unit == unit]
        return next((change for name in names if (change := self._actions.running(name))), "")

    def store(self, name: str) -> Store:
        """Raises AgentdError("store-not-found"); "" means the only one there is."""
        if not name and len(self._watchers) == 1:
            return next(iter(self._watchers.values())).store
        if name in self._watchers:
            return self._watchers[name].store
        known = ", ".join(self._watchers) or 'none is configured; a store is a service with role "store", or redis.url'
        what = f"there is no store {name!r}" if name else "there are several stores, or none"
        raise AgentdError("store-not-found", f"{what}; stores: {known}")

    def stores(self, name: str) -> list[Store]:
        """Of this name; all for ""."""
        return [self.store(name)] if name else [watcher.store for watcher in self._watchers.values()]

    def follow(self, change: Change, task: asyncio.Task[Change]) -> None:
        """A change that somebody asked for: its store is looked at once it has ended."""
        watcher = self._watchers.get(change.target or "")
        if watcher is not None:
            watcher.hurry()
            task.add_done_callback(lambda _: watcher.hurry())

    # -- news -------------------------------------------------------------------------------------------------

    async def apply(self, settings: Settings) -> None:
        wanted = {found.name: found for found in stores(settings)}
        for name in set(self._watchers) - set(wanted):
            await self._watchers.pop(name).close()
        for name, found in wanted.items():
            source = self._password(settings.redis.password_file, settings.redis.password_credential)
            target = Target(name, found.url, settings.redis.user, source)
            known = self._watchers.get(name)
            if known is not None and known.spec == (found, settings.redis):
                continue
            if known is not None:
                await known.close()
            store = Store(name, found.unit, target, self._ports.connect(target), settings.redis)
            self._watchers[name] = Watcher(store, (found, settings.redis), self._parts, again=name in self._again)
            self._watchers[name].start()

    async def recover(self) -> None:
        """After a crash of agentd: what it was doing is done again. Raises AgentdError."""
        self._again |= set(await self._actions.cut_off())

    async def ensure(self) -> None:
        """Called by every pass: a store whose process is another one is looked at at once."""
        by_unit = {service.unit: service.main_pid for service in self._world.services}
        for name, watcher in self._watchers.items():
            pid = by_unit.get(watcher.store.unit, 0)
            if pid != self._pids.get(name, 0):
                self._pids[name] = pid
                watcher.hurry()
        self._watch_files()

    def unit_changed(self, unit: str | None) -> None:
        """None: systemd was reloaded, so that a unit's arguments may be others from the next start on."""
        if unit is None:
            for watcher in self._watchers.values():
                watcher.forget_launch()

    def _watch_files(self) -> None:
        """The directories of all configuration files that we can see."""
        found = tuple(sorted({folder for w in self._watchers.values() for folder in w.folders}))
        if found != self._watching:
            self._watching = found
            try:
                self._watch.watch(found, self._file_changed)
            except AgentdError as error:  # The half-minute's look sees it, too.
                log.warning("redis.unwatched", extra={"data": {"error": error.message}})

    def _file_changed(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        for watcher in self._watchers.values():
            if not path or folder in watcher.folders:
                watcher.hurry()

    async def verify(self, name: str) -> Sequence[StoreStatus]:
        """Looks anew."""
        return [await self._watchers[store.name].look_now() for store in self.stores(name)]

    async def close(self) -> None:
        self._watch.close()
        for watcher in self._watchers.values():
            with contextlib.suppress(asyncio.CancelledError):
                await watcher.close()
