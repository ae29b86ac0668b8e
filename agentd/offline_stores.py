"""A look at the stores without a daemon: what `agentctl redis verify` shows then. Nothing is remembered or mended."""

from __future__ import annotations

import asyncio

from agentd import paths
from agentd.adapters.clock import SystemClock
from agentd.adapters.credentials import password_source
from agentd.adapters.files import LocalFiles
from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.redis import RedisClient
from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.adapters.redis_scratch import LocalScratchServers
from agentd.core.redis_verdict import assess
from agentd.core.schema import Settings
from agentd.errors import AgentdError
from agentd.managers.redis.context import RedisPorts, Store
from agentd.managers.redis.look import Looker
from agentd.managers.redis.records import Records
from agentd.managers.redis.status import seen, unseen
from agentd.managers.redis.stores import Named, stores
from agentd.ports_redis import Target
from agentd.stores import StoreStatus
from agentd.types import Scope


def statuses(settings: Settings, name: str) -> list[StoreStatus]:
    """Of this store; of all for "". Raises AgentdError("store-not-found")."""
    known = list(stores(settings))
    wanted = [found for found in known if name in ("", found.name)]
    if name and not wanted:
        names = ", ".join(found.name for found in known) or "none is configured"
        raise AgentdError("store-not-found", f'there is no store "{name}"; stores: {names}')
    return asyncio.run(_statuses(settings, wanted))


async def _statuses(settings: Settings, wanted: list[Named]) -> list[StoreStatus]:
    state = paths.state_dir(system=Scope(settings.daemon.scope) is Scope.SYSTEM) / "redis"
    files = LocalFiles([state])
    ports = RedisPorts(
        LocalBackupFiles(), LocalScratchServers(), RedisClient, LinuxKernel(), SystemClock(), files, str(state)
    )
    return [await _status(settings, ports, Records(files, str(state)), found) for found in wanted]


async def _status(settings: Settings, ports: RedisPorts, records: Records, named: Named) -> StoreStatus:
    policy = settings.redis
    password = password_source(policy.password_file, policy.password_credential)
    target = Target(named.name, named.url, policy.user, password)
    store = Store(named.name, named.unit, target, ports.connect(target), policy)
    blank = StoreStatus(store.name, store.unit, target.url)
    record = await records.load(store.name)
    try:
        view = await Looker(ports).look(store)
        return seen(blank, view, assess(view, policy, record), record)
    except AgentdError as error:
        return unseen(blank, error, record)
    finally:
        await store.admin.close()
