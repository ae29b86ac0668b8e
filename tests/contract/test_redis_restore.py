"""Restores into the directory of a real server: exactly the moment comes back, and nothing that was there is lost."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redisdata import fill
from redisserver import RedisServer
from storebackups import Rig, cancelled_at, snapshot_of, tree

from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.core.redis_backup import RECORD, from_json, to_json
from agentd.core.redis_layout import Layout
from agentd.core.redis_placement import Placement
from agentd.errors import AgentdError

KEYS = int(os.environ.get("AGENTD_KEYS", "1000"))
DEBUG = "enable-debug-command yes\nsave 3600 1\n"
BOTH = ("yes", "no")


@contextmanager
def running(folder: Path, conf: str = "", *, keys: int = 0, seed: int = 1) -> Iterator[RedisServer]:
    server = RedisServer(folder, DEBUG + conf)
    server.start(wait=False)
    server.wait_ready(120)
    try:
        with server.client() as client:
            fill(client, keys, seed)
        yield server
    finally:
        server.kill()


@pytest.fixture
def backup(tmp_path: Path) -> str:
    """200 keys."""
    with running(tmp_path / "origin", "appendonly yes", keys=200) as server:
        return asyncio.run(taken(server)).path


async def taken(server: RedisServer) -> Any:
    async with Rig(server) as rig:
        return await rig.take()


@pytest.fixture
def target(tmp_path: Path) -> RedisServer:
    """A server that is not started."""
    return RedisServer(tmp_path / "target", DEBUG)


@pytest.mark.allows_blocking
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("after", BOTH)
@pytest.mark.parametrize("before", BOTH)
async def test_exactly_the_moment(tmp_path: Path, before: str, after: str) -> None:
    """Keys, values and times to live; whatever the file says of appendonly, and over data that came later."""
    with running(tmp_path, f"appendonly {before}", keys=KEYS) as server:
        moment = snapshot_of(server)
        async with Rig(server) as rig:
            result = await rig.take()
            with server.client() as client:
                fill(client, max(100, KEYS // 10), 2)
                client.delete(*client.keys("1:0:*")[:1000])
            later = snapshot_of(server)
            server.stop(seconds=120)
            done = await rig.restore(result.path)
        assert (done.keys, done.expires) == (result.info.total, sum(result.info.expires.values()))
        server.config_file.write_text(server.config_file.read_text().replace(f"only {before}", f"only {after}"))
        server.start(wait=False)
        server.wait_ready(120)
        assert snapshot_of(server) == moment
        with server.client() as client:
            client.set("new", 1)
            if after == "yes":
                client.bgrewriteaof()
                while client.info("persistence")["aof_rewrite_in_progress"]:
                    pass
                client.set("new", 2)
        if after == "yes":
            server.kill()
        else:
            server.stop(seconds=120)
        server.start(wait=False)
        server.wait_ready(120)
        with server.client() as client:
            assert client.get("new") == ("2" if after == "yes" else "1")
            client.delete("new")
        assert snapshot_of(server) == moment
    old = RedisServer(tmp_path / "old", DEBUG + f"appendonly {before}")
    old.data.rmdir()
    Path(done.kept).rename(old.data)
    old.start(wait=False)
    old.wait_ready(120)
    try:
        assert snapshot_of(old) == later, "what was there before is whole"
    finally:
        old.kill()


async def test_into_an_empty_directory(backup: str, target: RedisServer) -> None:
    async with Rig(target) as rig:
        done = await rig.restore(backup)
        assert rig.seen == ["read", "load", "place", "commit"]
    assert done.kept == ""
    assert done.placed == (
        "dump.rdb",
        "appendonlydir/appendonly.aof.manifest",
        "appendonlydir/appendonly.aof.1.base.rdb",
        "appendonlydir/appendonly.aof.1.incr.aof",
    )
    assert set(tree(target.data)) == set(done.placed)
    assert sorted(path.name for path in Path(backup).parent.iterdir()) == [Path(backup).name], "no copy is left"


async def test_under_the_names_of_the_server(backup: str, target: RedisServer) -> None:
    names = {"dbfilename": "my dump", "appenddirname": "parts", "appendfilename": "log"}
    async with Rig(target) as rig:
        done = await rig.restore(backup, **names)
    assert set(done.placed) == {"my dump", "parts/log.manifest", "parts/log.1.base.rdb", "parts/log.1.incr.aof"}
    for value in BOTH:
        conf = f"appendonly {value}\n" + "\n".join(f'{name} "{text}"' for name, text in names.items())
        with target.config_file.open("a") as stream:
            stream.write(conf + "\n")
        await asyncio.to_thread(target.start)
        assert await asyncio.to_thread(target.info, "db0") is not None
        target.kill()


async def test_names_that_lead_elsewhere(backup: str, target: RedisServer) -> None:
    async with Rig(target) as rig:
        for names in ({"dbfilename": "../dump.rdb"}, {"appenddirname": ".."}, {"appendfilename": "a/b"}):
            with pytest.raises(AgentdError) as caught:
                await rig.restore(backup, **names)
            assert caught.value.kind == "restore-where"
        with pytest.raises(AgentdError, match="not an absolute path"):
            await rig.restore(backup, Path("relative"))
    assert tree(target.folder).keys() == {"redis.conf"}


async def test_new_parts_never_reuse_a_name(backup: str, target: RedisServer) -> None:
    """An old increment under the name of a new one would be replayed."""
    target.aof.mkdir()
    for name in ("appendonly.aof.1.incr.aof", "appendonly.aof.7.incr.aof", "appendonly.aof.3.base.rdb", "notes"):
        (target.aof / name).write_text("old")
    (target.aof / "theirs").mkdir()
    (target.data / "appendonly.aof").write_text("of Redis 6")
    async with Rig(target) as rig:
        done = await rig.restore(backup)
    now = {path for path in tree(target.data) if not path.startswith("before-restore-")}
    assert now == set(done.placed)
    assert "appendonlydir/appendonly.aof.8.base.rdb" in now
    assert (target.aof / "theirs").is_dir(), "not a file of Redis"
    assert set(tree(Path(done.kept))) == {
        "appendonly.aof",
        "appendonlydir/appendonly.aof.1.incr.aof",
        "appendonlydir/appendonly.aof.7.incr.aof",
        "appendonlydir/appendonly.aof.3.base.rdb",
        "appendonlydir/notes",
    }


async def test_owner_and_modes(backup: str, target: RedisServer) -> None:
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    target.data.chmod(0o2770)
    (target.data / "dump.rdb").write_text("old")
    (target.data / "dump.rdb").chmod(0o644)
    if os.geteuid() == 0:
        os.chown(target.data, owner, owner)
    async with Rig(target) as rig:
        done = await rig.restore(backup)
    for name in (*done.placed, "appendonlydir", Path(done.kept).name):
        about = (target.data / name).stat()
        assert about.st_uid == owner, name
        wanted = 0o770 if (target.data / name).is_dir() else 0o640
        assert about.st_mode & 0o777 == wanted, name


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
async def test_a_link_of_the_servers_user_leads_root_nowhere(backup: str, target: RedisServer) -> None:
    elsewhere = target.folder / "elsewhere"
    elsewhere.mkdir()
    target.aof.symlink_to(elsewhere)
    os.chown(target.aof, 12345, 12345, follow_symlinks=False)
    async with Rig(target) as rig:
        with pytest.raises(AgentdError) as caught:
            await rig.restore(backup)
        assert (caught.value.kind, list(elsewhere.iterdir())) == ("file-owner", [])
        os.chown(target.aof, 0, 0, follow_symlinks=False)
        await rig.restore(backup)
    assert len(list(elsewhere.iterdir())) == 3


async def test_without_hard_links(backup: str, target: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", refuse)
    (target.data / "dump.rdb").symlink_to("elsewhere")
    target.aof.mkdir()
    (target.aof / "appendonly.aof.manifest").write_text("old")
    async with Rig(target) as rig:
        done = await rig.restore(backup)
    kept = Path(done.kept)
    assert (kept / "dump.rdb").readlink() == Path("elsewhere")
    assert (kept / "appendonlydir/appendonly.aof.manifest").read_text() == "old"
    assert not (target.data / "dump.rdb").is_symlink()


async def test_twice_within_a_second(backup: str, target: RedisServer) -> None:
    async with Rig(target) as rig:
        done = [await rig.restore(backup) for _ in range(3)]
    assert len({result.kept for result in done}) == 3
    assert set(tree(Path(done[2].kept))) == set(done[1].placed)


async def test_a_check_touches_nothing(backup: str, target: RedisServer) -> None:
    before = tree(target.folder) | tree(Path(backup))
    async with Rig(target) as rig:
        done = await rig.restore(backup, check_only=True)
    assert (done.keys, done.placed, done.kept, done.message) == (200, (), "", "the backup is good")
    assert tree(target.folder) | tree(Path(backup)) == before


async def test_without_a_server_of_its_kind_the_checksums_count(
    backup: str, target: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.adapters.redis_scratch_place.shutil.which", lambda *_, **__: None)
    record = Path(backup, RECORD)
    record.write_text(to_json(replace(from_json(record.read_text(), RECORD), product="valkey")))
    target.executable = ""
    async with Rig(target) as rig:
        done = await rig.restore(backup, check_only=True)
    assert "not loaded: cannot start a server on the copy: there is no valkey-server" in done.message


async def test_without_memory_the_checksums_count(backup: str, target: RedisServer) -> None:
    async with Rig(target, memory=1) as rig:
        done = await rig.restore(backup)
    assert "by its checksums; not loaded: " in done.message
    assert done.keys == 200


def edited(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes()))


def recorded(**values: Any) -> Callable[[Path], object]:
    return edited(RECORD, lambda text: json.dumps({**json.loads(text), **values}).encode())


INCREMENT = "appendonlydir/appendonly.aof.1.incr.aof"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no record": (lambda folder: (folder / RECORD).unlink(), f"it has no {RECORD}"),
    "half a record": (edited(RECORD, lambda text: text[:-9]), "it is not JSON"),
    "another record": (recorded(keys={"0": 1}), "its checksum is wrong"),
    "a later format": (recorded(format=2), "its format is 2"),
    "no rdb": (lambda folder: (folder / "dump.rdb").unlink(), "dump.rdb is missing"),
    "a flipped bit": (edited("dump.rdb", lambda d: d[:99] + bytes([d[99] ^ 1]) + d[100:]), "another checksum"),
    "a cut rdb": (edited("dump.rdb", lambda d: d[:-1]), "bytes instead of"),
    "a longer rdb": (edited("dump.rdb", lambda d: d + b"\0"), "bytes instead of"),
    "a changed increment": (edited(INCREMENT, lambda d: d[:-1] + b"x"), f"{INCREMENT} has another checksum"),
    "no parts": (lambda folder: [path.unlink() for path in (folder / "appendonlydir").iterdir()], "is missing"),
}


@pytest.mark.parametrize("check_only", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_backup(backup: str, target: RedisServer, damage: str, check_only: bool) -> None:
    spoil, said = DAMAGES[damage]
    spoil(Path(backup))
    (target.data / "dump.rdb").write_text("old")
    async with Rig(target) as rig:
        with pytest.raises(AgentdError) as caught:
            await rig.restore(backup, check_only=check_only)
    assert caught.value.kind == "backup-damaged"
    assert backup in caught.value.message
    assert said in caught.value.message
    assert tree(target.data) == {"dump.rdb": b"old"}


async def test_a_backup_that_does_not_load(tmp_path: Path, backup: str, target: RedisServer) -> None:
    """Its checksums are right, since it was damaged before they were made; or it holds other keys than it says."""
    record = Path(backup, RECORD)
    info = from_json(record.read_text(), RECORD)
    record.write_text(to_json(replace(info, keys={**info.keys, 0: 51})))
    async with Rig(target) as rig:
        with pytest.raises(AgentdError, match="database 0 has 38 keys without a time to live instead of 39") as caught:
            await rig.restore(backup)
        assert caught.value.kind == "backup-damaged"
        path = Path(backup, "dump.rdb")
        path.write_bytes(path.read_bytes()[:-60] + b"\xff" * 60)
        digests = await rig.files.digest(backup)
        files = tuple(digest for digest in digests if digest.path != RECORD)
        record.write_text(to_json(replace(info, files=files)))
        with pytest.raises(AgentdError, match=f"cannot use {backup}: ") as caught:
            await rig.restore(backup)
        assert caught.value.kind == "backup-unusable"
    assert tree(target.data) == {}


async def test_not_while_it_is_used(backup: str, target: RedisServer) -> None:
    answers = ["a server answers"]

    async def in_use() -> str:
        return answers.pop(0)

    async with Rig(target) as rig:
        with pytest.raises(AgentdError, match="cannot restore: a server answers") as caught:
            await rig.restore(backup, in_use=in_use)
        assert (caught.value.kind, rig.seen) == ("restore-in-use", [])
        answers[:] = ["", "it was started meanwhile"]
        (target.data / "dump.rdb").write_text("old")
        with pytest.raises(AgentdError, match="it was started meanwhile"):
            await rig.restore(backup, in_use=in_use)
        assert tree(target.data) == {"dump.rdb": b"old"}
        await rig.restore(backup)


async def test_only_one_at_a_time(backup: str, target: RedisServer) -> None:
    async def in_use() -> str:
        if "place" in rig.seen:
            with pytest.raises(AgentdError) as caught:
                await other.restore(backup)
            kinds.append(caught.value.kind)
        return ""

    kinds: list[str] = []
    async with Rig(target) as rig, Rig(target) as other:
        await rig.restore(backup, in_use=in_use)
        await other.restore(backup)
    assert kinds == ["restore-busy"]


async def test_a_cancelled_one_leaves_nothing(backup: str, target: RedisServer) -> None:
    (target.data / "dump.rdb").write_text("old")
    async with Rig(target) as rig:
        for step in ("load", "place"):
            await cancelled_at(rig, step, rig.restore(backup))
            left = tree(target.data)
            assert left == {"dump.rdb": b"old"}
        await rig.restore(backup)


def placement(backup: str, target: RedisServer, **values: Any) -> Placement:
    path = Path(backup, "dump.rdb")
    plan = {
        "layout": Layout(str(target.data)),
        "rdb": str(path),
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "stamp": "20270115T080000Z",
    }
    return Placement(**{**plan, **values})


async def test_a_backup_that_changes_after_its_check(backup: str, target: RedisServer) -> None:
    files = LocalBackupFiles()
    for wrong in ({"sha256": "0" * 64}, {"size": 1}):
        with pytest.raises(AgentdError) as caught:
            await files.stage(placement(backup, target, **wrong))
        assert caught.value.kind == "backup-damaged"
        assert tree(target.data) == {}


async def test_no_place_for_it(backup: str, target: RedisServer) -> None:
    with pytest.raises(AgentdError, match=r"\d+ bytes are needed and \d+ are free") as caught:
        await LocalBackupFiles().stage(placement(backup, target, size=1 << 60))
    assert caught.value.kind == "disk-full"
    assert tree(target.data) == {}


OLD = {
    "dump.rdb": b"o",
    "appendonlydir/appendonly.aof.1.base.rdb": b"l",
    "appendonlydir/appendonly.aof.manifest": b"d",
}


@pytest.mark.allows_blocking
async def test_an_error_at_any_step_changes_nothing_or_says_so(tmp_path: Path, backup: str) -> None:
    """Every call that changes something fails once."""
    seen = []
    for failing in range(1, 100):
        server = RedisServer(tmp_path / str(failing))
        server.aof.mkdir()
        for name, data in OLD.items():
            (server.data / name).write_bytes(data)
        files, plan = LocalBackupFiles(), placement(backup, server)
        await files.stage(plan)
        error = await failure(files, plan, failing)
        if error is None:
            break
        seen.append(error.hint == "nothing was changed")
        if seen[-1]:
            now = tree(server.data)
            assert now == OLD
            continue
        kept = server.data / f"before-restore-{plan.stamp}"
        assert "run the same restore again" in error.hint
        assert str(kept) in error.hint
        assert tree(kept) == OLD
        assert (server.aof / "appendonly.aof.manifest").read_bytes() != b"d"
        await files.stage(plan)
        await files.commit(plan)
    assert seen == sorted(seen, reverse=True), "old up to one moment, new from then on"
    assert seen.count(True) > 15
    assert seen.count(False) > 5


async def failure(files: LocalBackupFiles, plan: Placement, failing: int) -> AgentdError | None:
    """Of a commit whose call number `failing` fails."""
    calls = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "unlink", "mkdir", "fsync", "fchmod", "link"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            await files.commit(plan)
        except AgentdError as error:
            return error
    assert calls[0] < failing, "no error is passed over"
    return None
