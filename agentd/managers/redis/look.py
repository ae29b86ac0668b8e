"""One look at a store: what the server says, and what lies on the disk for its next start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agentd.core.aof_manifest import Manifest, parse_manifest
from agentd.core.redis_conf import Effective, effective
from agentd.core.redis_layout import Layout, layout
from agentd.core.redis_policy import NAMES
from agentd.core.redis_view import StoreView
from agentd.errors import AgentdError
from agentd.managers.redis.context import RedisPorts, Store
from agentd.managers.redis.records import Records
from agentd.stores import AofFiles, ConfTree, Launch, RedisState, Space

LAUNCH_AGE = 300.0
"""Seconds. An edited unit is news only where systemd is ours; to ask costs a process."""
REFUSED = ("redis-denied", "redis-unknown-command", "redis-refused")


class Looker:
    """Remembers for a while how a server was started, since that costs a process to ask."""

    def __init__(self, ports: RedisPorts, records: Records | None = None) -> None:
        self._ports = ports
        self._records = records
        self._launches: dict[str, tuple[str, Launch, float]] = {}
        """Store -> (run of the server, how it was started, monotonic time until which that is believed)."""

    async def look(self, store: Store) -> StoreView:
        """Raises AgentdError when the server cannot be asked."""
        state = await store.admin.state()
        running, problem = await self._running(store, state)
        places = layout(running) if running is not None else None
        at, local = self._ports.clock.time(), store.target.local
        if not local:
            return StoreView(store.name, at, state, running, problem, places, local=False)
        launch = await self._launch(store, state)
        tree, aof, rdb, size, space = await asyncio.gather(
            self._tree(state), self._aof(places), self._rdb_mtime(places), self._rdb_size(places), self._space(places)
        )
        return StoreView(
            store.name,
            at,
            state,
            running,
            problem,
            places,
            tree=tree,
            launch=launch,
            file_written=self._written(store.name),
            effective=_effective(state, tree, launch),
            aof=aof,
            manifest=_manifest(aof),
            rdb_mtime=rdb,
            rdb_size=size,
            space=space,
            memory_available=self._ports.kernel.memory_available(),
        )

    def forget(self, name: str) -> None:
        self._launches.pop(name, None)

    def _written(self, name: str) -> float:
        record = self._records.known(name) if self._records is not None else None
        return record.file_written if record is not None else 0.0

    async def _running(self, store: Store, state: RedisState) -> tuple[Mapping[str, str] | None, str]:
        if state.loading:
            return None, "it is loading its data"
        try:
            return await store.admin.config(NAMES), ""
        except AgentdError as error:
            if error.kind not in REFUSED:
                raise
            return None, error.message

    async def _launch(self, store: Store, state: RedisState) -> Launch:
        run, launch, until = self._launches.get(store.name, ("", Launch(), 0.0))
        now = self._ports.clock.monotonic()
        if run != state.run_id or now >= until:
            launch = await self._ports.files.launch(state.pid)
            if not launch.problem:
                self._launches[store.name] = (state.run_id, launch, now + LAUNCH_AGE)
        return launch

    async def _tree(self, state: RedisState) -> ConfTree:
        return await self._ports.files.configuration(state.config_file) if state.config_file else ConfTree()

    async def _aof(self, places: Layout | None) -> AofFiles | None:
        return await self._ports.files.aof(places.aof, places.appendfilename) if places is not None else None

    async def _rdb_mtime(self, places: Layout | None) -> float | None:
        return await self._ports.files.mtime(places.rdb) if places is not None else None

    async def _rdb_size(self, places: Layout | None) -> int:
        return (await self._ports.files.size(places.rdb) or 0) if places is not None else 0

    async def _space(self, places: Layout | None) -> Space | None:
        return await self._ports.files.space(places.directory) if places is not None else None


def _effective(state: RedisState, tree: ConfTree, launch: Launch) -> Effective | None:
    """Without a file, the arguments alone decide; without both, nothing is known."""
    if not state.config_file and not launch.argv:
        return None
    return effective(tree, launch.argv, NAMES)


def _manifest(aof: AofFiles | None) -> Manifest | None:
    if aof is None or aof.manifest is None:
        return None
    try:
        return parse_manifest(aof.manifest)
    except ValueError:
        return None
