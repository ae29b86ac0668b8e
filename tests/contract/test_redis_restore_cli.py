"""agentctl redis restore: as a process without a daemon, and how it finds the directory and who uses it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redisdata import fill
from redisserver import RedisServer
from storebackups import Rig, tree

from agentd import offline_redis
from agentd.adapters.redis_users import server_in
from agentd.errors import AgentdError, BusError
from agentd.stores import Launch
from agentd.types import ActiveState, UnitState

UNIT = "cache.service"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "server", "appendonly yes\nappenddirname parts\n")
    server.start()
    with server.client() as client:
        fill(client, 60, 1)
    yield server
    server.kill()


@pytest.fixture
def backup(server: RedisServer) -> str:
    async def take() -> str:
        async with Rig(server) as rig:
            return (await rig.take(name="cache")).path

    return asyncio.run(take())


@pytest.fixture
def config(tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with the store "cache"."""
    folder = tmp_path / "config"
    folder.mkdir()
    text = f'[services.cache]\nunit = "{UNIT}"\nrole = "store"\nurl = "{server.url}"\n'
    (folder / "agentd.toml").write_text(text)
    monkeypatch.setenv("AGENTD_CONFIG_DIR", str(folder))
    return folder


def agentctl(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentd.cli.main", "redis", "restore", *argv]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=50, check=False)


def test_a_check_and_a_restore(server: RedisServer, backup: str, config: Path) -> None:
    done = agentctl(backup, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"checking   the checksums of {backup}",
        "loading    a server of its own reads the backup",
        "done       the backup is good",
        "keys       60, 12 of them with a time to live",
    ]
    empty = server.folder / "empty"
    empty.mkdir()
    done = agentctl(os.path.relpath(backup), "--into", os.path.relpath(empty))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[2:] == [
        f"copying    the files are laid into {empty}",
        "replacing  they take the place of the old ones",
        f"done       the backup is good, and in place in {empty}",
        "keys       60, 12 of them with a time to live",
        "placed     dump.rdb, parts/appendonly.aof.manifest, parts/appendonly.aof.1.base.rdb,"
        " parts/appendonly.aof.1.incr.aof",
        "old files  there were none",
        "next       start the server, then: agentctl redis verify",
    ]
    done = agentctl(backup, "--into", str(empty), "--json")
    found = json.loads(done.stdout)
    assert (found["keys"], found["expires"], found["start"]) == (60, 12, "")
    assert found["kept"].startswith(f"{empty}/before-restore-")


def test_what_is_refused(server: RedisServer, backup: str, config: Path) -> None:
    done = agentctl(backup, "--into", str(server.data))
    assert done.returncode in (1, 3)
    assert done.stdout == ""
    assert done.stderr.startswith(
        f"agentctl: cannot restore: redis-server (process {server.pid}) works in {server.data}"
    )
    assert "stop the server first" in done.stderr
    before = tree(server.data)
    assert agentctl(backup, "--check", "--into", "x").returncode == 2
    done = agentctl(str(server.data), "--check")
    assert done.returncode == 1
    assert f"cannot use {server.data}: it has no backup.json" in done.stderr
    Path(backup, "dump.rdb").write_bytes(b"REDIS")
    done = agentctl(backup, "--check", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr)["error"]["kind"] == "backup-damaged"
    assert tree(server.data) == before


# -- where it goes ------------------------------------------------------------------------------------------------


def started_by(monkeypatch: pytest.MonkeyPatch, *argv: str, problem: str = "") -> None:
    """What systemd would say of the unit; that it runs, nobody can say."""

    async def launch(unit: str, scope: object) -> Launch:
        assert unit == UNIT
        if problem:
            raise AgentdError("restore-where", problem)
        return Launch(unit=unit, scope="user", argv=argv)

    def states(scope: object, units: Sequence[str]) -> Any:
        raise BusError("bus-down", "no bus")

    monkeypatch.setattr(offline_redis, "_launch", launch)
    monkeypatch.setattr(offline_redis, "unit_states", states)


def restored(backup: str, into: str = "", store: str = "", *, check: bool = False) -> Any:
    return offline_redis.restore(backup, into=into, store=store, check=check, progress=lambda step, detail: None)


def test_into_the_directory_of_the_stores_file(
    server: RedisServer, backup: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_by(monkeypatch, "/usr/bin/redis-server", str(server.config_file))
    server.stop()
    done, start = restored(backup)
    assert "parts/appendonly.aof.2.base.rdb" in done.placed
    assert start == f"systemctl --user start {UNIT}"
    assert Path(done.kept).parent == server.data
    server.start()
    assert server.keys() == 15
    server.stop()


def test_arguments_come_before_the_file(
    server: RedisServer, backup: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = server.folder / "other"
    other.mkdir()
    arguments = ("--dir", str(other), "--dbfilename", "my.rdb", "--appenddirname", "log")
    started_by(monkeypatch, "/usr/bin/redis-server", str(server.config_file), *arguments)
    server.stop()
    done, _ = restored(backup, store="cache")
    assert set(tree(other)) == set(done.placed)
    assert {"my.rdb", "log/appendonly.aof.manifest"} < set(done.placed)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("redis-server",), 'its dir is "./", which is relative'),
        (("redis-server", "redis.conf"), "finds redis.conf"),
        (("redis-server", "/nonexistent/redis.conf"), "cannot tell where the data is: "),
    ],
)
def test_a_directory_that_cannot_be_told(
    server: RedisServer, backup: str, config: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], said: str
) -> None:
    started_by(monkeypatch, *argv)
    server.stop()
    with pytest.raises(AgentdError) as caught:
        restored(backup)
    assert caught.value.kind == "restore-where"
    assert said in caught.value.message
    assert "--into DIR" in caught.value.hint
    done, _ = restored(backup, str(server.data), "cache")
    assert done.placed, "told by hand"


def test_which_store(server: RedisServer, backup: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AgentdError) as caught:
        restored(backup, store="cash")
    assert (caught.value.kind, caught.value.hint) == ("store-not-found", "there are: cache")
    (config / "agentd.toml").write_text('[redis]\nurl = "unix:///nonexistent"\n')
    with pytest.raises(AgentdError, match='the backup is of "cache", and the configuration has no such store'):
        restored(backup)
    with pytest.raises(AgentdError, match="cannot tell where redis keeps its data: it has no unit"):
        restored(backup, store="redis")
    (config / "agentd.toml").write_text("nonsense")
    assert restored(backup, check=True)[0].keys == 60, "a check needs no configuration"
    server.stop()
    assert restored(backup, str(server.data))[0].placed


def test_a_unit_that_runs(server: RedisServer, backup: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, "/usr/bin/redis-server", str(server.config_file))
    server.stop()
    for state in (ActiveState.ACTIVE, ActiveState.ACTIVATING, ActiveState.DEACTIVATING):
        found = {UNIT: UnitState(UNIT, active_state=state)}
        monkeypatch.setattr(offline_redis, "unit_states", lambda scope, units, found=found: found)
        with pytest.raises(AgentdError) as caught:
            restored(backup)
        assert (caught.value.kind, caught.value.hint) == ("restore-in-use", f"first: systemctl --user stop {UNIT}")
    assert restored(backup, check=True)[0].keys == 60


# -- who uses it --------------------------------------------------------------------------------------------------


@contextmanager
def process(*argv: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    found = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.PIPE)
    try:
        yield found
    finally:
        found.kill()
        found.communicate()


def test_who_works_in_a_directory(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_in(str(server.data)) == f"redis-server (process {server.pid}) works in {server.data}"
    (tmp_path / "link").symlink_to(server.data)
    assert server_in(f"{tmp_path}/link") != ""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert server_in(str(empty)) == "", "we ourselves do not count"
    assert server_in(f"{tmp_path}/missing") == ""
    with process("sh", "-c", "read line", cwd=empty):
        assert server_in(str(empty)) == "", "a shell is a person"
    with process("cat", cwd=empty) as cat:
        assert server_in(str(empty)) == f"cat (process {cat.pid}) works in {empty}"


async def in_use(directory: Path, url: str) -> str:
    return await offline_redis._in_use(offline_redis.Place(str(directory), url=url))


async def test_who_answers(server: RedisServer, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = f"a server answers at {server.url}"
    assert await in_use(server.data, server.url) == said
    assert await in_use(elsewhere, server.url) == "", "it is another one"
    await asyncio.to_thread(server.set, requirepass="secret")
    assert await in_use(elsewhere, server.url) == said, "it lets nobody in, so nothing is known of it"
    await asyncio.to_thread(server.stop)
    assert await in_use(server.data, server.url) == ""
