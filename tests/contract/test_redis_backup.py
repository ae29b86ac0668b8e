"""Backups of a real server: what is in them, that they hold one moment, and what becomes of older ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redisdata import DATABASES, fill
from redisserver import RedisServer
from storebackups import Rig, as_nobody, cancelled_at, refused, transactions, tree

from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.core.redis_backup import RECORD, from_json, to_json, wrong_files
from agentd.stores import FileDigest, RedisState

DEBUG = "enable-debug-command yes\n"


@contextmanager
def running(folder: Path, conf: str = "appendonly yes", keys: int = 200) -> Iterator[RedisServer]:
    server = RedisServer(folder, DEBUG + conf)
    server.start()
    try:
        with server.client() as client:
            fill(client, keys, 1)
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running(tmp_path) as server:
        yield server


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[RedisServer]:
    """Without an append-only file."""
    with running(tmp_path, "appendonly no") as server:
        yield server


async def test_what_is_in_it(server: RedisServer) -> None:
    async with Rig(server) as rig:
        result = await rig.take()
    folder = Path(result.path)
    assert folder.parent == rig.backups
    assert [path.name for path in rig.backups.iterdir()] == [folder.name]
    info = from_json((folder / RECORD).read_text(), RECORD)
    assert info == result.info
    assert (info.store, info.product, info.loaded, result.notes) == ("store", "redis", True, ())
    assert info.version == server.info("redis_version")
    assert info.keys == dict.fromkeys(DATABASES, 50)
    assert info.expires == dict.fromkeys(DATABASES, 12)
    assert sorted(file.path for file in info.files) == sorted(set(tree(folder)) - {RECORD})
    assert {*tree(folder)} == {RECORD, "dump.rdb"} | {f"appendonlydir/{name}" for name in tree(server.aof)}
    assert wrong_files(info, await rig.files.digest(str(folder))) == ()
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert rig.seen == ["save", "copy", "load", "tidy"]
    assert abs(info.time - (folder / "dump.rdb").stat().st_mtime) < 5


async def test_without_an_append_only_file(plain: RedisServer) -> None:
    async with Rig(plain) as rig:
        result = await rig.take()
    assert set(tree(Path(result.path))) == {RECORD, "dump.rdb"}
    assert result.info.total == 200


async def test_an_empty_data_set(tmp_path: Path) -> None:
    with running(tmp_path, keys=0) as server:
        async with Rig(server) as rig:
            result = await rig.take()
    assert (result.info.total, result.info.loaded, result.info.keys) == (0, True, {})


async def test_what_is_named_otherwise(tmp_path: Path) -> None:
    names = {"dbfilename": "a dump.rdb", "appenddirname": "parts", "appendfilename": "my aof"}
    conf = "appendonly yes\n" + "\n".join(f'{name} "{value}"' for name, value in names.items())
    with running(tmp_path, conf) as server:
        async with Rig(server) as rig:
            result = await rig.take()
    assert result.info.names == names
    assert {"a dump.rdb", "parts/my aof.manifest"} < set(tree(Path(result.path)))


async def test_one_moment_while_clients_write(server: RedisServer) -> None:
    async with Rig(server) as rig:
        with transactions(server) as count:
            before = count()
            results = [await rig.take() for _ in range(3)]
            after = count()
    assert len({result.path for result in results}) == 3, "also within one second"
    seen = []
    for number, result in enumerate(results):
        assert (result.info.loaded, result.notes) == (True, ())
        with restored(server.folder / str(number), Path(result.path)) as copy, copy.client() as client:
            values = client.mget("a", "b", "c")
            assert len(set(values)) == 1, "a transaction is whole"
            seen.append(int(values[0] or 0))
            assert sum(result.info.keys.values()) == int(client.info("persistence")["rdb_last_load_keys_loaded"])
    assert before <= seen[0] < seen[1] < seen[2] <= after


@contextmanager
def restored(folder: Path, backup: Path) -> Iterator[RedisServer]:
    """By hand, as a person would: the RDB of the backup, and no append-only file."""
    server = RedisServer(folder, DEBUG)
    (server.data / "dump.rdb").write_bytes((backup / "dump.rdb").read_bytes())
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Rewriting(LocalBackupFiles):
    """Redis rewrites its append-only file in the midst of the first copies."""

    def __init__(self, server: RedisServer, times: int) -> None:
        super().__init__()
        self.server, self.times = server, times

    async def copy(self, sources: Mapping[str, str], target: str) -> tuple[FileDigest, ...]:
        self.times -= 1
        if self.times >= 0:
            await asyncio.to_thread(self.rewrite)
        return await super().copy(sources, target)

    def rewrite(self) -> None:
        before = (self.server.aof / "appendonly.aof.manifest").read_text()
        with self.server.client() as client:
            client.bgrewriteaof()
            while client.info("persistence")["aof_rewrite_in_progress"]:
                pass
        assert (self.server.aof / "appendonly.aof.manifest").read_text() != before


async def test_a_rewrite_in_between(server: RedisServer) -> None:
    async with Rig(server, Rewriting(server, 2)) as rig:
        result = await rig.take()
    assert result.notes == ()
    now = (server.aof / "appendonly.aof.manifest").read_bytes()
    assert tree(Path(result.path))["appendonlydir/appendonly.aof.manifest"] == now
    assert len(list(rig.backups.iterdir())) == 1


async def test_rewrites_all_the_time(server: RedisServer) -> None:
    async with Rig(server, Rewriting(server, 3)) as rig:
        result = await rig.take()
    (note,) = result.notes
    assert note.startswith("without the append-only file: ")
    assert set(tree(Path(result.path))) == {RECORD, "dump.rdb"}
    assert result.info.loaded


async def test_how_many_are_kept(plain: RedisServer) -> None:
    async with Rig(plain) as rig:
        other = await rig.take(name="store-2")
        strange = [rig.backups / name for name in ("store-20200101T000000Z", "store-old", "notes")]
        for path in strange:
            path.mkdir()
        taken = [await rig.take(2) for _ in range(4)]
        names = [Path(result.path).name for result in taken]
        assert [result.removed for result in taken] == [(), (), (names[0],), (names[1],)]
        assert all(path.exists() for path in (*strange, Path(other.path)))
        rig.memory = 0
        unloaded = [await rig.take(2) for _ in range(3)]
        assert [result.info.loaded for result in unloaded] == [False] * 3
        assert {path.name for path in rig.backups.glob("store-2*Z")} >= {names[2], names[3]}, "the verified ones stay"
        assert not Path(unloaded[0].path).exists()
        assert Path(unloaded[1].path).exists()


async def test_without_memory_it_is_not_loaded(plain: RedisServer) -> None:
    async with Rig(plain, memory=256 * 1024**2) as rig:
        result = await rig.take()
    (note,) = result.notes
    assert note.startswith("not loaded for a check: ")
    assert f"{256 * 1024**2} are available" in note
    assert result.info.keys == dict.fromkeys(DATABASES, 50), "as the server said"


async def test_a_damaged_record_is_not_ours_to_remove(plain: RedisServer) -> None:
    async with Rig(plain) as rig:
        first = await rig.take()
        Path(first.path, RECORD).write_text("{}")
        assert (await rig.take(1)).removed == ()
        second = await rig.take()
        Path(second.path, RECORD).write_text(to_json(replace(second.info, store="other")))
        await rig.take(1)
    assert Path(first.path).exists()
    assert Path(second.path).exists()


class Damaging(LocalBackupFiles):
    async def copy(self, sources: Mapping[str, str], target: str) -> tuple[FileDigest, ...]:
        found = await super().copy(sources, target)
        path = Path(target, "dump.rdb")
        path.write_bytes(path.read_bytes()[:-40] + b"\xff" * 40)
        return found


async def test_a_copy_that_does_not_load_is_no_backup(plain: RedisServer) -> None:
    async with Rig(plain) as rig:
        good = await rig.take()
        rig.files = Damaging()
        async with refused("backup-unusable") as errors:
            await rig.take(1)
    assert "redis-server" in errors[0].message
    assert [str(path) for path in rig.backups.iterdir()] == [good.path]


async def test_a_cancelled_one_leaves_nothing(server: RedisServer) -> None:
    async with Rig(server) as rig:
        for step in ("copy", "load"):
            await cancelled_at(rig, step, rig.take())
            assert list(rig.backups.iterdir()) == []


class Loading:
    async def state(self) -> RedisState:
        return RedisState(loading=True)

    async def config(self, names: object) -> Mapping[str, str]:
        return {"dir": "/nowhere"}

    async def close(self) -> None:
        return


async def test_not_while_it_loads(plain: RedisServer) -> None:
    async with Rig(plain) as rig:
        admin, rig.admin = rig.admin, Loading()  # type: ignore[assignment]
        async with refused("redis-loading"):
            await rig.take()
        await admin.close()
    assert list(rig.backups.iterdir()) == []


async def test_a_save_that_fails(plain: RedisServer) -> None:
    async with Rig(plain) as rig:
        good = await rig.take()
        (plain.data / "dump.rdb").unlink()
        (plain.data / "dump.rdb").mkdir()
        async with refused("redis-save-failed"):
            await rig.take(1)
    assert [str(path) for path in rig.backups.iterdir()] == [good.path]


class Closed(LocalBackupFiles):
    """The RDB is for its owner alone, and for nobody when that is us."""

    async def copy(self, sources: Mapping[str, str], target: str) -> tuple[FileDigest, ...]:
        if os.getuid() != 0:
            Path(sources["dump.rdb"]).chmod(0o000)
        return await super().copy(sources, target)


@pytest.mark.parametrize(("umask", "way"), [(0o077, "run it as root"), (0o027, "join the group (usermod -aG root ")])
async def test_an_rdb_that_we_cannot_read(tmp_path: Path, umask: int, way: str) -> None:
    before = os.umask(umask)
    try:
        with running(tmp_path) as server:
            os.umask(before)
            async with Rig(server, Closed()) as rig:
                await rig.running()
                server.data.chmod(0o711)
                with as_nobody(rig.backups):
                    async with refused("file-denied") as errors:
                        await rig.take()
    finally:
        os.umask(before)
    assert "dump.rdb: permission denied" in errors[0].message
    assert "it belongs to " in errors[0].hint
    if os.getuid() == 0:
        assert "it belongs to root:root (mode 06" in errors[0].hint
        assert "we are user nobody" in errors[0].hint
        assert way in errors[0].hint
    assert list(rig.backups.iterdir()) == []


async def test_an_append_only_file_that_we_cannot_read(server: RedisServer) -> None:
    async with Rig(server) as rig:
        await rig.running()
        server.data.chmod(0o711)
        server.aof.chmod(0o700 if os.getuid() == 0 else 0o000)
        with as_nobody(rig.backups):
            result = await rig.take()
    server.aof.chmod(0o700)
    (note,) = result.notes
    assert note.startswith(f"without the append-only file: cannot read {server.aof}: permission denied")
    assert result.info.loaded


async def test_a_place_that_cannot_be_written(plain: RedisServer) -> None:
    async with Rig(plain) as rig:
        await rig.running()
        closed = plain.folder / "closed"
        closed.mkdir(mode=0o555)
        with as_nobody():
            async with refused("file-denied") as errors:
                await rig.take(target=closed)
            assert f"cannot write to {closed}: permission denied for user" in errors[0].message
        async with refused("file-missing") as errors:
            await rig.take(target=plain.config_file / "below")
        assert "not a directory" in errors[0].message
    assert rig.seen == []


WORKER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from redisserver import RedisServer
from storebackups import Rig
from agentd.adapters import redis_copies
from agentd.errors import AgentdError
redis_copies.HEADROOM = float(sys.argv[5])
server = RedisServer.__new__(RedisServer)
server.executable = "redis-server"
server.folder, server.socket, server.port = Path(sys.argv[2]), Path(sys.argv[2]) / "redis.sock", 0
async def work():
    async with Rig(server) as rig:
        print("begun", flush=True)
        for _ in range(int(sys.argv[3])):
            try:
                result = await rig.take(3, target=Path(sys.argv[4]))
                print("whole", result.path, flush=True)
            except AgentdError as error:
                print("refused", error.kind, error.message, flush=True)
asyncio.run(work())
"""


def worker(
    server: RedisServer, times: int, target: Path, headroom: str = "1.05", *, before: Sequence[str] = ()
) -> subprocess.Popen[str]:
    tests = str(Path(__file__).resolve().parents[1])
    command = [*before, sys.executable, "-c", WORKER, tests, str(server.folder), str(times), str(target), headroom]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.allows_blocking
@pytest.mark.timeout(180)
async def test_killed_at_any_moment(server: RedisServer) -> None:
    """Whatever is there under its name is whole, and the next backup removes the rest."""
    cut = 0
    async with Rig(server) as rig:
        rig.backups.mkdir()
        for number in range(12):
            process = worker(server, 100, rig.backups)
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            threading.Event().wait(0.01 + number * 0.017)  # The moment is what is tried here.
            os.killpg(process.pid, signal.SIGKILL)
            said = process.communicate()[0]
            assert "refused" not in said
            cut += any(path.name.endswith(".partial") for path in rig.backups.iterdir())
            for path in rig.backups.glob("store-*Z"):
                info = from_json((path / RECORD).read_text(), RECORD)
                assert wrong_files(info, await rig.files.digest(str(path))) == ()
            result = await rig.take(3)
            assert not list(rig.backups.glob("*.partial"))
            assert Path(result.path).exists()
            assert len(list(rig.backups.iterdir())) <= 3
    assert cut > 0, "no kill came in between"


FULL = """
mount -t tmpfs -o size={size} tmpfs {place} || exit 77
"$@"
ls -A {place}
"""


@pytest.mark.parametrize(
    ("pages", "headroom", "said"),
    [
        (-1, "1.05", "bytes are needed and"),
        (-1, "0", "no space left on device"),
        (0, "0", "backup.json: no space left"),
    ],
)
def test_a_full_disk(plain: RedisServer, pages: int, headroom: str, said: str) -> None:
    """Seen beforehand, while the RDB is copied, and when only the record has no place any more."""
    target = plain.folder / "small"
    target.mkdir()
    with plain.client() as client:
        client.set("big", os.urandom(50_000))
        client.save()
    size = ((plain.data / "dump.rdb").stat().st_size + 4095) // 4096 + pages
    script = FULL.format(size=size * 4096, place=target)
    namespace = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
    process = worker(plain, 1, target, headroom, before=(*namespace, "sh", "-c", script, "sh"))
    out = process.communicate(timeout=50)[0].splitlines()
    assert process.returncode == 0, out
    assert out[0] == "begun"
    assert out[1].startswith("refused disk-full cannot ")
    assert said in out[1]
    assert out[2:] == [], "nothing half-made stays"
