"""The drill against real servers: what the next start would bring, and every way in which it would not."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redisdata import fill
from redisserver import RedisServer
from storebackups import PLENTY, Rig, as_nobody, cancelled_at, transactions, tree

from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.adapters.redis_scratch import LocalScratchServers
from agentd.errors import AgentdError
from agentd.managers.redis.drill import DrillResult
from agentd.stores import FileDigest

Files = Mapping[str, str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Both kinds of persistence, 200 keys, none of them in an RDB yet."""
    server = RedisServer(tmp_path, "appendonly yes\nsave 3600 1")
    server.start()
    with server.client() as client:
        fill(client, 200, 1)
    yield server
    server.kill()


@asynccontextmanager
async def rig_of(
    server: RedisServer, files: LocalBackupFiles | None = None, memory: int = PLENTY
) -> AsyncIterator[Rig]:
    """Whatever comes of it: what lies on the disk is untouched, and the copy is gone."""
    async with Rig(server, files, memory) as rig:
        yield rig
    assert not rig.place.exists() or list(rig.place.iterdir()) == []


def exact(result: DrillResult, keys: int) -> bool:
    return result.ok and (result.expected_low, result.expected_high, result.found) == (keys, keys, keys)


async def test_everything_comes_back(server: RedisServer) -> None:
    before = tree(server.data)
    async with rig_of(server) as rig:
        result = await rig.drill()
    assert exact(result, 200)
    assert result.message == f"the next start brings back 200 keys from {server.aof}/appendonly.aof.manifest"
    assert result.seconds > 0
    assert rig.seen == ["copy", "load"]
    assert tree(server.data) == before


async def test_after_rewrites_and_with_an_empty_data_set(server: RedisServer) -> None:
    async with rig_of(server) as rig:
        with server.client() as client:
            client.bgrewriteaof()
            client.set("new", 1)
        assert exact(await rig.drill(), 201)
        with server.client() as client:
            client.flushall()
        assert exact(await rig.drill(), 0)


async def test_with_the_rdb_alone(server: RedisServer) -> None:
    async with rig_of(server) as rig:
        result = await rig.drill(appendonly="no")
        assert not result.ok, "there is none yet"
        said = f"the next start would begin empty: {server.data}/dump.rdb holds none of 200 keys"
        assert result.message == said
        with server.client() as client:
            client.save()
        assert exact(await rig.drill(appendonly="no"), 200)
        with server.client() as client:
            client.delete(*client.keys("1:0:*")[:7])
        result = await rig.drill(appendonly="no")
        assert (result.ok, result.found) == (True, 200)
        assert result.expected_low == 193 - 7
        assert result.message.endswith("dump.rdb; 7 changes since are not in it")


async def test_while_clients_write(server: RedisServer) -> None:
    async with rig_of(server) as rig:
        with transactions(server):
            results = [await rig.drill() for _ in range(3)]
    assert all(result.ok for result in results), results
    assert all(result.expected_low <= result.found <= result.expected_high for result in results)
    assert any("were expected while clients wrote" in result.message for result in results)


async def test_a_switch_that_is_not_in_the_file(server: RedisServer) -> None:
    """Run time on, file off, and the other way round: the next start reads what the file says."""
    server.set(appendonly="no")
    with server.client() as client:
        client.delete(*client.keys("1:0:*")[:3])
        client.mset({"a": 1, "b": 1, "c": 1})
    async with rig_of(server) as rig:
        result = await rig.drill(appendonly="yes")
    assert (result.ok, result.found) == (False, 200)
    assert "keys without a time to live instead of" in result.message or "Redis does not write now" in result.message
    with server.client() as client:
        client.delete("a", "b", "c")


async def test_an_append_only_file_that_is_not_written_any_more(server: RedisServer) -> None:
    server.set(appendonly="no")
    async with rig_of(server) as rig:
        result = await rig.drill(appendonly="yes")
    assert (result.ok, result.found) == (False, 200), "the same number by chance"
    assert result.message.endswith("appendonly.aof.manifest, which Redis does not write now")


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - size)


def garble(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"garbage\r\n" + data[len(data) // 2 :])


FAULTS: dict[str, tuple[Callable[[Path], object], dict[str, str], str]] = {
    "no manifest": (
        lambda aof: (aof / "appendonly.aof.manifest").unlink(),
        {},
        "brings? back 0 keys from .*manifest: 0 keys without a time to live instead of 152",
    ),
    "another directory": (lambda aof: None, {"appenddirname": "other"}, "back 0 keys from .*/other/appendonly"),
    "another name": (lambda aof: None, {"appendfilename": "other.aof"}, "back 0 keys from .*/other.aof.manifest"),
    "another dir": (lambda aof: None, {"dir": "/nonexistent"}, "back 0 keys from /nonexistent/appendonlydir"),
    "a manifest of nonsense": (
        lambda aof: (aof / "appendonly.aof.manifest").write_text("nonsense\n"),
        {},
        "the next start would fail: cannot use .*manifest: line 1",
    ),
    "a part is missing": (
        lambda aof: (aof / "appendonly.aof.1.incr.aof").unlink(),
        {},
        "the next start would fail with .*manifest: redis-server was started on the copy, but",
    ),
    "the base is missing": (lambda aof: (aof / "appendonly.aof.1.base.rdb").unlink(), {}, "the next start would fail"),
    "a damaged part": (lambda aof: garble(aof / "appendonly.aof.1.incr.aof"), {}, "Bad file format"),
    "a cut part": (
        lambda aof: cut(aof / "appendonly.aof.1.incr.aof", 9),
        {"aof-load-truncated": "no"},
        "the next start would fail",
    ),
    "a cut part that is repaired": (
        lambda aof: cut(aof / "appendonly.aof.1.incr.aof", 9),
        {},
        "back 199 keys from .* instead of",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_the_next_start_would_lose(server: RedisServer, fault: str) -> None:
    harm, effective, said = FAULTS[fault]
    with server.client() as client:
        client.set("last", 1)
        client.delete("1:0:0")
        client.set("last", 2)
        client.rename("last", "renamed")
        client.set("very last", 3)
        client.delete(*client.keys("1:0:1*")[:1])
        client.set("the end", 4)
    harm(server.aof)
    keys = sum(int(value["keys"]) for value in keyspace(server).values())
    async with rig_of(server) as rig:
        result = await rig.drill(**effective)
    assert not result.ok
    assert re.search(said.replace("152", r"\d+").replace("199", str(keys - 1)), result.message), result.message


def keyspace(server: RedisServer) -> Mapping[str, Mapping[str, int]]:
    with server.client() as client:
        found: Mapping[str, Mapping[str, int]] = client.info("keyspace")
        return found


async def test_a_damaged_rdb(server: RedisServer) -> None:
    with server.client() as client:
        client.save()
    cut(server.data / "dump.rdb", 20)
    async with rig_of(server) as rig:
        result = await rig.drill(appendonly="no")
    assert not result.ok
    assert result.message.startswith(f"the next start would fail with {server.data}/dump.rdb: ")


class Slow(LocalBackupFiles):
    """Copies, and says so; then waits for what the test does."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.meanwhile = meanwhile
        self.copied = 0

    async def copy(self, sources: Files, target: str) -> tuple[FileDigest, ...]:
        done = await super().copy(sources, target)
        self.copied += 1
        await asyncio.to_thread(self.meanwhile)
        return done


async def test_keys_that_expire_meanwhile(server: RedisServer) -> None:
    """They are gone from the copy of the RDB at once; the server finds them after a while."""
    end = time.time() + 1.2
    with server.client() as client:
        for number in range(500):
            client.set(f"short:{number}", 1, pxat=int(end * 1000))
        client.save()
    files = Slow(lambda: time.sleep(max(0.0, end + 0.001 - time.time())))
    async with rig_of(server, files) as rig:
        result = await rig.drill(appendonly="no")
    assert result.ok, result
    assert result.found == 200
    assert result.expected_low <= 200


async def test_a_save_or_a_rewrite_in_between(server: RedisServer) -> None:
    def once() -> None:
        if files.copied == 1:
            with server.client() as client:
                client.save()
        if files.copied == 2:
            with server.client() as client:
                client.bgrewriteaof()
                while client.info("persistence")["aof_rewrite_in_progress"]:
                    pass

    files = Slow(once)
    async with rig_of(server, files) as rig:
        assert exact(await rig.drill(), 200)
    assert files.copied == 3


async def test_a_rewrite_each_time(server: RedisServer) -> None:
    def always() -> None:
        with server.client() as client:
            client.bgrewriteaof()
            while client.info("persistence")["aof_rewrite_in_progress"]:
                pass

    async with rig_of(server, Slow(always)) as rig:
        with pytest.raises(AgentdError) as caught:
            await rig.drill()
    assert caught.value.kind == "drill-busy"


async def test_a_restart_in_between(server: RedisServer) -> None:
    def restart() -> None:
        server.kill()
        server.start()

    async with rig_of(server, Slow(restart)) as rig:
        with pytest.raises(AgentdError) as caught:
            await rig.drill()
    assert caught.value.kind in ("redis-restarted", "redis-unreachable")


async def test_no_memory(server: RedisServer) -> None:
    async with rig_of(server, memory=1000) as rig:
        with pytest.raises(
            AgentdError, match=r"a second server needs .* bytes of memory, and 1000 are available"
        ) as caught:
            await rig.drill()
    assert caught.value.kind == "drill-no-memory"


async def test_files_that_we_cannot_read(server: RedisServer) -> None:
    async with rig_of(server) as rig:
        await rig.running()
        server.data.chmod(0o711)
        server.aof.chmod(0o700 if os.geteuid() == 0 else 0o000)
        with as_nobody(rig.place), pytest.raises(AgentdError) as caught:
            await rig.drill()
        server.aof.chmod(0o700)
    assert caught.value.kind == "file-denied"
    assert caught.value.message.startswith(f"cannot hold a drill: cannot read {server.aof}")
    assert "it belongs to" in caught.value.hint


async def test_no_place_for_the_copy(server: RedisServer) -> None:
    class Full(LocalBackupFiles):
        async def copy(self, sources: Files, target: str) -> tuple[FileDigest, ...]:
            raise AgentdError("disk-full", f"cannot copy to {target}: 10 bytes are needed and 9 are free")

    async with rig_of(server, Full()) as rig:
        with pytest.raises(AgentdError) as caught:
            await rig.drill()
    assert caught.value.kind == "disk-full"


async def test_no_server_to_start(server: RedisServer) -> None:
    async with rig_of(server) as rig:
        rig.scratch = LocalScratchServers("no-such-server")
        with pytest.raises(AgentdError) as caught:
            await rig.drill()
    assert caught.value.kind == "drill-no-server"


async def test_a_cancelled_drill_and_one_that_was_killed(server: RedisServer) -> None:
    async with rig_of(server) as rig:
        for name in ("copy", "copy.partial"):
            (rig.place / name).mkdir(parents=True)
            (rig.place / name / "dump.rdb").write_text("left by a kill")
        for step in ("copy", "load"):
            await cancelled_at(rig, step, rig.drill())
            assert list(rig.place.iterdir()) == []
        assert exact(await rig.drill(), 200)
