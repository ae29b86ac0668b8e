"""Clients write while a store is brought to dual persistence: none is refused, and what they wrote is kept."""

from __future__ import annotations

import os
from pathlib import Path

from redisclients import running
from redisload import CLIENTS, writing
from redisrig import Rig, aside

KEYS = int(os.environ.get("AGENTD_KEYS", "50000"))
SECONDS = 120.0


async def test_no_write_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "redis", "appendonly no\nsave 3600 1") as server:
        await aside(lambda: server.seed(KEYS, size=100))
        with writing(str(server.socket), keys=KEYS) as load:
            async with Rig(tmp_path / "agentd", server).running() as life:
                await life.durable(SECONDS)
        assert load.errors == []
        assert len(load.samples) > CLIENTS
        with server.client() as client:
            written = client.dbsize()
            assert client.info("commandstats")["cmdstat_set"]["rejected_calls"] == 0
        assert written > KEYS
        server.kill()  # As soon as the clients have ended, what they wrote is in the kernel's hands at least.
        await aside(server.start)
        assert server.keys() == written
