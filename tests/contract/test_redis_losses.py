"""The ways in which a Redis loses its data, one by one, on a real server: agentd prevents them, or sees them and holds
everything still. In none does a key go that was there before."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redisrig import Rig, aside
from redisserver import RedisServer

from agentd.errors import AgentdError
from agentd.managers.redis import heal
from agentd.managers.redis.pinned import pinned
from agentd.stores import Durability, RedisState, StoreStatus
from agentd.types import Outcome

KEYS = 1000
RDB_ONLY = "appendonly no\nsave 3600 1"
SLOW = 2000
"""Microseconds for each key while a child writes: 1000 keys take two seconds."""


class Case:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[RedisServer] = []

    def server(self, conf: str = RDB_ONLY, *, keys: int = KEYS, **options: object) -> RedisServer:
        server = RedisServer(self.folder / "redis", conf, **options)  # type: ignore[arg-type]
        self.servers.append(server)
        server.start()
        if keys:
            server.seed(keys)
            with server.client() as client:
                client.save()
        return server

    def rig(self, server: RedisServer) -> Rig:
        return Rig(self.folder / "agentd", server)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    for server in made.servers:
        server.kill()


def has(status: StoreStatus, aspect: str) -> bool:
    return any(f.aspect == aspect and f.severity.value in ("warning", "error") for f in status.findings)


def edited(server: RedisServer, old: str, new: str) -> None:
    text = server.config_file.read_text()
    assert old in text
    server.config_file.write_text(text.replace(old, new))


def effective_file(server: RedisServer, name: str) -> str:
    """What a fresh start reads, by a start."""
    server.restart()
    return server.get(name)


# -- L1 to L3: the file first --------------------------------------------------------------------------------------


async def test_l1_prevented(case: Case) -> None:
    """With agentd the file says yes only when there is an append-only file to read."""
    server = case.server()
    async with case.rig(server).running() as life:
        await life.durable()
        await aside(server.restart)
        assert server.keys() == KEYS
        assert server.get("appendonly") == "yes"
        await life.durable()


async def test_l1_seen_before_the_restart(case: Case) -> None:
    server = case.server()
    async with case.rig(server).running(mode="report") as life:
        await life.verified()
        edited(server, "appendonly no", "appendonly yes")
        status = await life.until(lambda s: has(s, "restart"))
        assert status.durability is not Durability.DURABLE
    async with case.rig(server).running() as life:
        await life.durable()
        await aside(server.restart)
        assert server.keys() == KEYS


@pytest.mark.parametrize("known", [True, False], ids=["recorded", "first-seen"])
async def test_l1_l2_l3_found_empty(case: Case, known: bool) -> None:
    server = case.server()
    dump = (server.data / "dump.rdb").read_bytes()
    rig = case.rig(server)
    if known:
        async with rig.running(mode="report") as life:
            assert (await life.verified()).record is not None
    edited(server, "appendonly no", "appendonly yes")
    server.kill()
    # Without a record the RDB has to be older than the server, and the kernel counts starts in hundredths of a second.
    os.utime(server.data / "dump.rdb", (time.time() - 5, time.time() - 5))
    await aside(server.start)
    assert server.keys() == 0
    async with rig.running() as life:
        status = await life.until(lambda s: s.durability is Durability.DATA_LOSS)
        assert status.record is not None
        evidence = Path(status.record.evidence)
        assert (evidence / "dump.rdb").read_bytes() == dump
        assert "appendonly no" in status.summary
        assert str(evidence) in status.summary
        assert life.told("redis.data-loss")
        # L2: even an ordinary stop leaves the old RDB alone now.
        await aside(server.stop)
        assert (server.data / "dump.rdb").read_bytes() == dump
        # L3: the repair that was printed.
        edited(server, "appendonly yes", "appendonly no")
        await aside(server.start)
        assert server.keys() == KEYS
        await life.durable()
        assert life.told("redis.data-back")
        await aside(server.restart)
        assert server.keys() == KEYS
    assert (evidence / "dump.rdb").read_bytes() == dump, "evidence is nobody's to remove but the user's"


async def test_a_loss_stays_held_until_somebody_decides(case: Case) -> None:
    server = case.server()
    rig = case.rig(server)
    async with rig.running(mode="report") as life:
        await life.verified()
    edited(server, "appendonly no", "appendonly yes")
    server.kill()
    await aside(server.start)
    for _ in range(2):
        async with rig.running() as life:
            status = await life.until(lambda s: s.durability is Durability.DATA_LOSS)
            assert status.record is not None
            assert server.get("save") == ""
            with pytest.raises(Exception, match="held still"):
                await life.enforce()
            assert len(list((rig.state / "redis" / "redis").glob("evidence-*"))) == 1
    async with rig.running() as life:
        await life.until(lambda s: s.durability is Durability.DATA_LOSS)
        change = await life.enforce(accept_loss=True)
        assert change.exit_code == 0, change
        await life.durable()
        assert server.get("save") != ""


async def test_nothing_is_saved_over_a_loss_that_nobody_has_seen(case: Case) -> None:
    """The first thing that is asked of a new agentd, or of a server that was exchanged below it, is a save."""
    server = case.server()
    dump = (server.data / "dump.rdb").read_bytes()
    rig = case.rig(server)
    async with rig.running(mode="report") as life:
        await life.verified()
        store = life.manager.store("")
        edited(server, "appendonly no", "appendonly yes")
        async with pinned(life.ports, store, (await life.verified()).state or RedisState()) as same:
            server.kill()
            await aside(server.start)
            with pytest.raises(AgentdError) as caught:
                await same.admin.save()
            assert caught.value.kind == "redis-restarted"
            assert (await store.admin.state()).keys == 0, "the watch itself goes on with the new one"
    async with rig.running() as life:
        _, task = await life.actions.backup(life.manager.store(""), "", None)
        change = await task
        assert change.outcome is Outcome.REFUSED
        assert "held still" in change.message
        await life.until(lambda s: s.durability is Durability.DATA_LOSS)
        assert (server.data / "dump.rdb").read_bytes() == dump


# -- L4 to L8: around the first rewrite ----------------------------------------------------------------------------


async def test_l4_l5_killed_in_the_first_rewrite(case: Case) -> None:
    """The file is not touched before the append-only file is whole."""
    server = case.server()
    server.set(rdb_key_save_delay=str(SLOW))
    async with case.rig(server).running() as life:
        await life.until(lambda _: server.info("aof_rewrite_in_progress") == "1")
        assert "appendonly no" in server.config_file.read_text()
        server.kill()
        await aside(server.start)
        assert server.keys() == KEYS
        await life.durable()
        await aside(server.restart)
        assert server.keys() == KEYS


async def test_l4_by_somebody_else(case: Case) -> None:
    server = case.server()
    rig = case.rig(server)
    async with rig.running(mode="report") as life:
        await life.verified()
    server.set(rdb_key_save_delay="20000", appendonly="yes")
    with server.client() as client:
        client.config_rewrite()
    server.kill()
    await aside(server.start)
    assert server.keys() == 0
    async with rig.running() as life:
        status = await life.until(lambda s: s.durability is Durability.DATA_LOSS)
        assert status.record is not None
        assert (Path(status.record.evidence) / "dump.rdb").stat().st_size > 10_000


async def test_l6_nobody_of_us_stops_it_in_the_first_rewrite(case: Case) -> None:
    server = case.server()
    server.set(rdb_key_save_delay=str(SLOW))
    async with case.rig(server).running() as life:
        await life.until(lambda _: server.info("aof_rewrite_in_progress") == "1")
        store = life.manager.store("")
        assert life.actions.running(store.name)
        server.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]  # Redis itself refuses: nothing ends half-way.
        await life.durable()
        assert server.keys() == KEYS


async def test_l7_a_first_rewrite_that_fails(case: Case) -> None:
    """Off again, with the RDB on: an ordinary stop keeps everything."""
    server = case.server('appendonly no\nsave ""')
    (server.aof / "appendonly.aof.1.base.rdb").mkdir(parents=True)  # The rewrite's last rename fails on it.
    async with case.rig(server).running(mode="report") as life:
        change = await life.enforce()
        assert change.outcome is Outcome.ROLLED_BACK, change
        assert server.get("appendonly") == "no"
        assert server.get("save") == "3600 1 300 100 60 10000"
        assert "appendonly no" in server.config_file.read_text()
        server.seed(5, prefix="later")
        await aside(server.restart)
        assert server.keys() == KEYS + 5


async def test_l8_a_save_that_runs_already(case: Case) -> None:
    server = case.server()
    server.set(rdb_key_save_delay="500")
    with server.client() as client:
        client.bgsave()
    async with case.rig(server).running() as life:
        await life.durable()
        assert (server.aof / "appendonly.aof.manifest").exists()
        server.kill()
        await aside(server.start)
        assert server.keys() == KEYS


# -- L9 to L11: files that lag behind, are renamed or gone ---------------------------------------------------------


async def test_l9_switched_off_behind_our_back(case: Case) -> None:
    server = case.server()
    async with case.rig(server).running() as life:
        await life.durable()
        server.set(appendonly="no")
        server.seed(10, prefix="newer")
        await life.manager.verify("")
        life.manager._watchers["redis"].hurry()
        await life.durable()
        server.kill()
        await aside(server.start)
        assert server.keys() == KEYS + 10


async def test_l9_stale_append_only_file_found(case: Case) -> None:
    """agentd was away: the RDB with the newer keys is copied before anything overwrites it."""
    server = case.server("appendonly yes\nsave 3600 1")
    rig = case.rig(server)
    async with rig.running() as life:
        await life.durable()
    server.set(appendonly="no")
    server.seed(KEYS, prefix="newer")
    with server.client() as client:
        client.save()
    async with rig.running(mode="report") as life:
        await life.verified()
    newer = (server.data / "dump.rdb").read_bytes()
    server.kill()
    await aside(server.start)
    assert server.keys() == KEYS
    async with rig.running() as life:
        await life.until(lambda s: bool(life.told("redis.fewer-keys")))
        (evidence,) = (rig.state / "redis" / "redis").glob("evidence-*")
        assert (evidence / "dump.rdb").read_bytes() == newer


@pytest.mark.parametrize("line", ['appenddirname "elsewhere"', 'appendfilename "other.aof"'])
async def test_l10_renamed_in_the_file(case: Case, line: str) -> None:
    server = case.server("appendonly yes\nsave 3600 1")
    before = server.config_file.read_text()
    rig = case.rig(server)
    async with rig.running() as life:
        await life.durable()
        before = server.config_file.read_text()
        server.config_file.write_text(f"{before}\n{line}\n")
        status = await life.until(lambda s: has(s, f"file:{line.split()[0]}"))
        assert status.durability is Durability.RUNTIME_ONLY
        server.kill()
        await aside(server.start)
        assert server.keys() == 0
        status = await life.until(lambda s: s.durability is Durability.DATA_LOSS)
        assert line.split()[0] in status.summary
        server.config_file.write_text(before)
        await aside(server.shutdown_nosave)
        await aside(server.start)
        assert server.keys() == KEYS
        await life.durable()


async def test_l11_manifest_gone(case: Case) -> None:
    server = case.server("appendonly yes\nsave 3600 1")
    async with case.rig(server).running() as life:
        await life.durable()
        (server.aof / "appendonly.aof.manifest").unlink()
        assert has(await life.verified(), "aof")
        life.manager._watchers["redis"].hurry()
        await life.durable()
        server.kill()
        await aside(server.start)
        assert server.keys() == KEYS


# -- L12 to L15: what the file seems to say ------------------------------------------------------------------------


async def test_l12_include_that_overrides(case: Case) -> None:
    extra = case.folder / "extra.conf"
    extra.write_text("appendonly no\n")
    server = case.server(f"appendonly yes\nsave 3600 1\ninclude {extra}")
    async with case.rig(server).running() as life:
        await life.durable()
        assert extra.read_text() == "appendonly no\n", "an included file is somebody else's"
        await aside(server.restart)
        assert server.get("appendonly") == "yes"
        assert server.keys() == KEYS


async def test_l13_arguments_that_override(case: Case) -> None:
    server = case.server("appendonly yes", arguments=["--appendonly", "no", "--save", ""])
    async with case.rig(server).running() as life:
        status = await life.until(lambda s: s.durability is Durability.RUNTIME_ONLY and not s.enforcing)
        assert server.get("appendonly") == "yes"
        (finding,) = (f for f in status.findings if f.aspect == "file:appendonly")
        assert "test-redis.service" in finding.cause
        assert "--appendonly" in finding.fix


@pytest.mark.parametrize(
    "lines", ['save ""', 'save 900 1\nsave ""', 'save ""\nsave 900 1', "save 60 5\nsave 3600 1 300 100 60 10000"]
)
async def test_l14_save_lines(case: Case, lines: str) -> None:
    server = case.server(f"appendonly no\n{lines}")
    async with case.rig(server).running() as life:
        await life.durable()
        await aside(server.restart)
        assert server.get("save") == "3600 1 300 100 60 10000"
        assert server.keys() == KEYS


async def test_l15_duplicates(case: Case) -> None:
    server = case.server("appendonly yes\nappendfsync everysec\nappendonly no\nappendfsync no")
    async with case.rig(server).running() as life:
        await life.durable()
        await aside(server.restart)
        assert (server.get("appendonly"), server.get("appendfsync")) == ("yes", "everysec")
        assert server.keys() == KEYS


# -- L16: the disk -------------------------------------------------------------------------------------------------


async def test_l16_full_disk_and_back(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal, "FIRST", 0.2)
    server = case.server("appendonly yes\nsave 3600 1")
    async with case.rig(server).running() as life:
        await life.durable()
        server.fill_disk()
        with server.client() as client:
            client.bgsave()
        await life.until(lambda _: server.info("rdb_last_bgsave_status") == "err")
        assert has(await life.verified(), "rdb")
        assert life.status.durability is Durability.AT_RISK
        server.free_disk()
        async with asyncio.timeout(20):
            while server.info("rdb_last_bgsave_status") != "ok":
                life.manager._watchers["redis"].hurry()
                await asyncio.sleep(0.1)
        await life.durable()
        assert server.keys() == KEYS


# -- and by the clock ----------------------------------------------------------------------------------------------


async def test_drills_and_backups_that_are_due(case: Case) -> None:
    server = case.server("appendonly yes\nsave 3600 1")
    rig = case.rig(server)
    async with rig.running(backup_every=3600.0, drill_every=3600.0) as life:
        status = await life.until(
            lambda s: s.record is not None and bool(s.record.backup_at) and s.record.drill_ok is not None
        )
        assert status.record is not None
        assert status.record.drill_ok is True
        (backup,) = (rig.state / "backups").iterdir()
        assert (backup / "backup.json").exists()
    async with rig.running(backup_every=3600.0, drill_every=3600.0) as life:
        await life.durable()
        await life.verified()
        assert not life.actions.running("redis"), "the next one is due in an hour"
        assert len(list((rig.state / "backups").iterdir())) == 1
