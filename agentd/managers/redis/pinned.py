"""One run of a server, and no other: for everything that overwrites what lies on the disk.

A server that died and came back empty between our look and our BGSAVE would otherwise get that BGSAVE, and the last
good RDB would be gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agentd.managers.redis.context import RedisPorts, Store
from agentd.stores import RedisState


@asynccontextmanager
async def pinned(ports: RedisPorts, store: Store, state: RedisState) -> AsyncIterator[Store]:
    """The store over a connection of its own, which ends with that run: then every call raises
    AgentdError("redis-restarted"), or "redis-unreachable"."""
    target = replace(store.target, run_id=state.run_id)
    admin = ports.connect(target)
    try:
        yield replace(store, target=target, admin=admin)
    finally:
        await admin.close()
