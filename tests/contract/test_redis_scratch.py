"""The ScratchServers port: real servers on copies of real files, gone in the end whatever happens."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redisserver import RedisServer

from agentd.adapters.redis_scratch import LocalScratchServers
from agentd.adapters.redis_scratch_place import find_program
from agentd.errors import AgentdError
from agentd.stores import ScratchResult

VALKEY = Path(__file__).parents[2] / ".cache/valkey/valkey-server"
PRODUCTS = ["redis-server", *([str(VALKEY)] if VALKEY.exists() else [])]
"""Valkey, too, once tests/integration/install_valkey has run."""
KEYS = 2000
SLOW = """#!/bin/sh
# A server that takes its time for every key, and tells who it is.
cat >{folder}/conf
echo 'key-load-delay 20000' >>{folder}/conf
echo $$ >{folder}/pid.new
mv {folder}/pid.new {folder}/pid
exec redis-server {folder}/conf
"""


@pytest.fixture(autouse=True)
def own_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the private directories of these tests come to be, and go."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.fixture(params=PRODUCTS, ids=lambda program: Path(program).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    conf = "appendonly yes\nenable-debug-command yes\nappendfilename log.aof\nappenddirname parts\ndbfilename all.rdb"
    made = RedisServer(tmp_path / "server", conf, executable=request.param).start()
    made.seed(KEYS)
    with made.client(db=9) as client:
        client.set("kept", "for a while", ex=3600)
        client.rpush("list", *range(100))
    yield made
    made.kill()


NAMES = {"dbfilename": "all.rdb", "appenddirname": "parts", "appendfilename": "log.aof"}


def digest(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.execute_command("DEBUG", "DIGEST"))


def saved(server: RedisServer) -> str:
    with server.client() as client:
        client.save()
    return str(server.saved_aside("copy"))


def pid_of(result: ScratchResult) -> int:
    (found,) = (match for line in result.log if (match := re.search(r"pid=(\d+)", line)))
    return int(found[1])


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def refused(directory: str, kind: str, **options: object) -> AgentdError:
    options = {"appendonly": False, "config": NAMES, **options}
    with pytest.raises(AgentdError) as caught:
        await LocalScratchServers().load(directory, **options)  # type: ignore[arg-type]
    assert caught.value.kind == kind, caught.value.message
    return caught.value


@pytest.mark.parametrize("appendonly", [True, False])
async def test_what_a_copy_holds(server: RedisServer, appendonly: bool) -> None:
    expected, copy = digest(server), saved(server)
    scratch = LocalScratchServers(server.executable)
    result = await scratch.load(copy, appendonly=appendonly, config=NAMES, digest=True)
    assert result.keys == {0: KEYS, 9: 2}
    assert result.expires == {0: 0, 9: 1}
    assert result.total == KEYS + 2
    assert result.digest == expected
    assert 0 < result.seconds < 20
    assert not exists(pid_of(result))
    assert digest(server) == expected, "the server itself was left alone"


async def test_the_names_decide_what_is_found(server: RedisServer) -> None:
    copy = saved(server)
    scratch = LocalScratchServers(server.executable)
    for appendonly in (True, False):
        result = await scratch.load(copy, appendonly=appendonly)
        assert (result.keys, result.total, result.digest) == ({}, 0, "")
    assert Path(copy, "all.rdb").stat().st_size > 20_000, "nothing was saved over it"


async def test_a_directory_with_a_difficult_name(server: RedisServer, tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" \\ #ä\n\'c'
    shutil.move(saved(server), folder)
    result = await LocalScratchServers(server.executable).load(str(folder), appendonly=True, config=NAMES)
    assert result.total == KEYS + 2


async def test_four_at_once(tmp_path: Path, server: RedisServer) -> None:
    copy = saved(server)
    copies = [shutil.copytree(copy, tmp_path / str(number)) for number in range(4)]
    scratch = LocalScratchServers(server.executable)
    results = await asyncio.gather(*(scratch.load(str(c), appendonly=True, config=NAMES) for c in copies))
    assert [result.total for result in results] == [KEYS + 2] * 4


# -- what it says when it cannot --------------------------------------------------------------------------------------
@pytest.fixture
def copy(tmp_path: Path) -> Path:
    conf = "appendonly yes\nappendfilename log.aof\nappenddirname parts\ndbfilename all.rdb"
    server = RedisServer(tmp_path / "server", conf).start()
    server.seed(KEYS)
    with server.client() as client:
        client.save()
    server.kill()
    return server.data


async def test_a_snapshot_that_is_cut_off(copy: Path) -> None:
    os.truncate(copy / "all.rdb", 20_000)
    error = await refused(str(copy), "drill-failed")
    assert error.message.startswith(f"redis-server was started on the copy, but it cannot load {copy}: ")
    assert "Unexpected EOF reading RDB file" in error.message
    assert "key:" not in error.message, "the names of keys are the user's"


async def test_no_snapshot_at_all(copy: Path) -> None:
    (copy / "all.rdb").write_bytes(b"something else")
    error = await refused(str(copy), "drill-failed")
    assert "Wrong signature trying to load DB from file" in error.message


async def test_an_append_only_file_that_is_damaged(copy: Path) -> None:
    log = copy / "parts" / "log.aof.1.incr.aof"
    log.write_bytes(log.read_bytes().replace(b"$8\r\nkey:1000", b"\0" * 12))
    error = await refused(str(copy), "drill-failed", appendonly=True)
    assert "Bad file format reading the append only file log.aof.1.incr.aof" in error.message


async def test_an_append_only_file_that_is_cut_off(copy: Path, tmp_path: Path) -> None:
    log = copy / "parts" / "log.aof.1.incr.aof"
    os.truncate(log, log.stat().st_size - 3)
    strict = {**NAMES, "aof-load-truncated": "no"}
    error = await refused(str(copy), "drill-failed", appendonly=True, config=strict)
    assert "Unexpected end of file reading the append only file" in error.message
    result = await LocalScratchServers().load(str(copy), appendonly=True, config=NAMES)
    assert result.total == KEYS - 1


async def test_a_part_that_is_missing(copy: Path) -> None:
    (copy / "parts" / "log.aof.1.incr.aof").unlink()
    error = await refused(str(copy), "drill-failed", appendonly=True)
    assert "log.aof.1.incr.aof" in error.message


async def test_too_few_databases(copy: Path, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "other", "databases 200\ndbfilename all.rdb").start()
    with server.client(db=150) as client:
        client.set("x", "y")
        client.save()
    server.kill()
    few = {**NAMES, "databases": "16"}
    error = await refused(str(server.data), "drill-failed", config=few)
    assert "more than 16 databases" in error.message
    assert (await LocalScratchServers().load(str(server.data), appendonly=False, config=NAMES)).keys == {150: 1}


async def test_no_such_directory(tmp_path: Path) -> None:
    error = await refused(str(tmp_path / "none"), "drill-failed")
    assert "No such file or directory" in error.message


async def test_programs_that_are_no_server(copy: Path, tmp_path: Path) -> None:
    assert (await refused(str(copy), "drill-no-server", executable="no-such-server")).hint
    error = await refused(str(copy), "drill-failed", executable="/bin/true")
    assert error.message == f"true was started on the copy, but it cannot load {copy}: no word"
    script = tmp_path / "crashing"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    assert "it was killed by SIGSEGV" in (await refused(str(copy), "drill-failed", executable=str(script))).message
    script.write_text("#!/no/such/interpreter\n")
    error = await refused(str(copy), "drill-failed", executable=str(script))
    assert "No such file or directory" in error.message
    script.write_text('#!/bin/sh\nsed -n s/unixsocket//p; echo "Ready to accept connections"; exec sleep 60\n')
    assert "it does not answer" in (await refused(str(copy), "drill-failed", executable=str(script))).message


def test_which_program(tmp_path: Path) -> None:
    assert find_program() == shutil.which("redis-server")
    assert find_program("redis-server") == find_program("/no/such/place/redis-server") == find_program()
    mine = tmp_path / "redis-server"
    mine.touch(0o755)
    assert find_program(str(mine)) == str(mine)
    mine.chmod(0o777)
    assert find_program(str(mine)) == (find_program() if os.geteuid() == 0 else str(mine)), (
        "anybody may have written it"
    )
    with pytest.raises(AgentdError, match="there is no none on this machine"):
        find_program("none")


# -- ended before its time --------------------------------------------------------------------------------------------
@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A program that would load for most of a minute."""
    folder = tmp_path / "slow"
    folder.mkdir()
    script = folder / "redis-server-slow"
    script.write_text(SLOW.format(folder=folder))
    script.chmod(0o755)
    return script


async def started(slow: Path) -> int:
    end = time.monotonic() + 20
    while not (slow.parent / "pid").exists():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    return int((slow.parent / "pid").read_text())


async def test_a_deadline(copy: Path, slow: Path) -> None:
    error = await refused(str(copy), "drill-timeout", executable=str(slow), timeout=0.5)
    assert error.message == f"cannot load {copy}: {slow} was not done within 0.5 s"
    assert not exists(await started(slow))


async def test_a_cancelled_call_leaves_nothing(copy: Path, slow: Path, own_temporary_directory: Path) -> None:
    work = asyncio.ensure_future(LocalScratchServers(str(slow)).load(str(copy), appendonly=True, config=NAMES))
    pid = await started(slow)
    (folder,) = own_temporary_directory.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not exists(pid)
    assert not folder.exists()


async def test_a_server_that_is_killed(copy: Path, slow: Path) -> None:
    work = asyncio.ensure_future(refused(str(copy), "drill-failed", executable=str(slow)))
    os.kill(await started(slow), signal.SIGKILL)
    assert "it was killed by SIGKILL" in (await work).message


async def test_a_server_that_hangs(copy: Path, slow: Path) -> None:
    work = asyncio.ensure_future(refused(str(copy), "drill-timeout", executable=str(slow), timeout=1.0))
    pid = await started(slow)
    os.kill(pid, signal.SIGSTOP)
    await work
    assert not exists(pid)


OTHER = """
import asyncio, sys
from agentd.adapters.redis_scratch import LocalScratchServers
asyncio.run(LocalScratchServers(sys.argv[1]).load(sys.argv[2], appendonly=False, config={"dbfilename": "all.rdb"}))
"""


async def test_it_dies_with_us(copy: Path, slow: Path, own_temporary_directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OTHER, str(slow), str(copy)]) as other:  # noqa: ASYNC220
        pid = await started(slow)
        handle = os.pidfd_open(pid)
        gone, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(handle, gone.set)
        try:
            other.kill()
            await asyncio.wait_for(gone.wait(), 20)
        finally:
            loop.remove_reader(handle)
            os.close(handle)
    for folder in own_temporary_directory.iterdir():
        shutil.rmtree(folder)  # Nobody was left to do it.


async def test_nothing_but_what_is_needed_is_told(copy: Path, slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDISCLI_AUTH", "the-password")
    config = {**NAMES, "requirepass": "the-password", "save": "1 1", "dir": "/", "port": "6379"}
    work = asyncio.ensure_future(LocalScratchServers(str(slow)).load(str(copy), appendonly=False, config=config))
    pid = await started(slow)
    told = [Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ")]
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    conf = (slow.parent / "conf").read_text()
    assert "the-password" not in "".join([conf, *told])
    assert 'port "0"' in conf
    assert 'save ""' in conf
    assert f'dir "{copy}"' in conf
    assert "6379" not in conf


async def test_it_is_the_first_to_go_when_memory_is_short(copy: Path, slow: Path) -> None:
    work = asyncio.ensure_future(LocalScratchServers(str(slow)).load(str(copy), appendonly=False, config=NAMES))
    pid = await started(slow)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert not exists(pid)


async def test_a_long_runtime_directory(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a socket is short; there is always /tmp."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert (await LocalScratchServers().load(str(copy), appendonly=False, config=NAMES)).total == KEYS
    assert list(long.iterdir()) == []
