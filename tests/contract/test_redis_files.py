"""The DataFiles port on real files: what is looked at, and the threads that look."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from elsewhere import ORDINARY, python, python_in_namespace
from redisserver import RedisServer

from agentd.adapters import redis_conf_files
from agentd.adapters.file_threads import FileThreads
from agentd.adapters.redis_files import LocalDataFiles
from agentd.errors import AgentdError

ASK = """
import asyncio, sys
from agentd.adapters.redis_files import LocalDataFiles
from agentd.errors import AgentdError
async def main():
    files = LocalDataFiles()
    try:
        print({})
    except AgentdError as error:
        print(error.kind, "|", error.message, "|", error.hint)
asyncio.run(main())
"""


@pytest.fixture
def files() -> LocalDataFiles:
    return LocalDataFiles()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "redis.conf"
    path.parent.mkdir()
    path.write_text("# kept\nappendonly no\n")
    path.chmod(0o640)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "server", "appendonly yes")
    yield made
    made.kill()


def elsewhere(expression: str, *argv: str, prefix: tuple[str, ...] = ()) -> str:
    """What `expression` of `files` and `sys.argv[1:]` is in a process of its own."""
    return python(ASK.replace("{}", expression), *argv, prefix=prefix)


def in_namespace(script: str, expression: str, *argv: str) -> str:
    return python_in_namespace(script, ASK.replace("{}", expression), *argv)


# -- what is looked at ------------------------------------------------------------------------------------------------
async def test_space_and_mtime(files: LocalDataFiles, tmp_path: Path) -> None:
    space = await files.space(str(tmp_path))
    assert space is not None
    about = os.statvfs(tmp_path)
    assert space.total == about.f_blocks * about.f_frsize
    assert 0 < space.free <= space.total
    assert await files.space(str(tmp_path / "none")) is None
    os.utime(tmp_path, (5, 1234.5))
    assert await files.mtime(str(tmp_path)) == 1234.5
    assert await files.mtime(str(tmp_path / "none")) is None


async def test_the_append_only_directory_of_a_server(files: LocalDataFiles, server: RedisServer) -> None:
    server.start()
    server.seed(2000)
    for _ in range(5):
        with server.client() as client:
            client.bgrewriteaof()
        while server.info("aof_rewrite_in_progress") == "1":
            found = await files.aof(str(server.aof), "appendonly.aof")
            assert found.problem == ""
            assert found.manifest is not None
            # Those of type h are on their way out.
            assert set(re.findall(r"^file (\S+) seq \d+ type [bi]", found.manifest, re.MULTILINE)) <= set(found.sizes)
    found = await files.aof(str(server.aof), "appendonly.aof")
    assert sum(found.sizes.values()) > 50_000
    assert time.time() - 60 < found.newest <= time.time() + 1
    assert (await files.aof(str(server.aof), "another.aof")).manifest is None


async def test_no_append_only_directory_is_no_problem(files: LocalDataFiles, tmp_path: Path) -> None:
    found = await files.aof(str(tmp_path / "none"), "appendonly.aof")
    assert (found.manifest, dict(found.sizes), found.newest, found.problem) == (None, {}, 0.0, "")


def test_an_append_only_directory_that_is_not_ours_to_read(tmp_path: Path) -> None:
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    manifest = folder / "a.manifest"
    manifest.write_text("file x seq 1 type b\n")
    manifest.chmod(0)
    ask = "await files.aof(sys.argv[1], 'a')"
    told = elsewhere(ask, str(folder), prefix=ORDINARY)
    assert "manifest=None" in told
    assert "{'a.manifest': 20}" in told
    assert "problem='manifest: permission denied'" in told
    folder.chmod(0)
    told = elsewhere(ask, str(folder), prefix=ORDINARY)
    folder.chmod(0o700)
    assert "problem='permission denied'" in told


# -- the configuration ------------------------------------------------------------------------------------------------
async def test_a_tree_in_the_order_in_which_it_is_read(files: LocalDataFiles, tmp_path: Path) -> None:
    place = {
        "main.conf": f'port 0\ninclude {tmp_path}/a.conf\nINCLUDE "b.conf"\ninclude {tmp_path}/d/*.conf\n',
        "a.conf": f"include {tmp_path}/b.conf\ninclude {tmp_path}/none/*.conf\n",
        "b.conf": f"include {tmp_path}/main.conf\n",
        "d/2.conf": "timeout 2\n",
        "d/1.conf": f"include {tmp_path}/missing.conf\n",
    }
    (tmp_path / "d").mkdir()
    for name, text in place.items():
        (tmp_path / name).write_text(text)
    tree = await files.configuration(str(tmp_path / "main.conf"), str(tmp_path))
    read = {str(Path(file.path).relative_to(tmp_path)): file for file in tree.files}
    assert list(read) == ["main.conf", "a.conf", "b.conf", "d/1.conf", "missing.conf", "d/2.conf"]
    assert {name: read[name].text for name in place} == place
    assert (read["missing.conf"].text, read["missing.conf"].problem) == (None, "no such file or directory")
    assert Path(read["d/1.conf"].included_by).name == "main.conf"
    assert tree.included == {
        f"{tmp_path}/a.conf": (f"{tmp_path}/a.conf",),
        f"{tmp_path}/b.conf": (f"{tmp_path}/b.conf",),
        f"{tmp_path}/main.conf": (f"{tmp_path}/main.conf",),
        f"{tmp_path}/none/*.conf": (),
        "b.conf": (f"{tmp_path}/b.conf",),
        f"{tmp_path}/d/*.conf": (f"{tmp_path}/d/1.conf", f"{tmp_path}/d/2.conf"),
        f"{tmp_path}/missing.conf": (f"{tmp_path}/missing.conf",),
    }


NAMES = ("10.conf", "1.conf", "B.conf", "a.conf", "_x.conf", ".hidden.conf", "[q].conf", "é.conf", "c-1.conf", "c.conf")


@pytest.mark.parametrize(
    "pattern", ["*.conf", "[^a]*.conf", "[!a]*.conf", "[[:digit:]]*.conf", "[[]q].conf", "\\a*.conf", "?.conf", "c*f"]
)
async def test_globs_as_the_server_expands_them(
    files: LocalDataFiles, server: RedisServer, tmp_path: Path, pattern: str
) -> None:
    """Every file sets the same value, and the last one wins."""
    folder = tmp_path / "[conf] d"
    folder.mkdir()
    for number, name in enumerate(NAMES, 100):
        (folder / name).write_text(f"timeout {number}\n")
    server.config_file.write_text(f"{server.place}\ndir '{folder}'\ninclude '{pattern}'\n")
    server.start(env={"LC_ALL": "C"})
    tree = await files.configuration(str(server.config_file), "/")
    last = tree.included[pattern][-1]
    assert Path(last).read_text() == f"timeout {server.get('timeout')}\n"
    assert len(tree.files) == 1 + len(tree.included[pattern])


async def test_links_modes_and_owners(files: LocalDataFiles, conf: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.conf"
    link.symlink_to(conf)
    (main,) = (await files.configuration(str(link))).files
    assert (main.path, main.link, main.text) == (str(link), str(conf), "# kept\nappendonly no\n")
    assert (main.mode, main.uid, main.mtime) == (0o640, os.geteuid(), conf.stat().st_mtime)
    assert main.writable
    assert not main.mounted
    (tmp_path / "dangling").symlink_to(tmp_path / "gone.conf")
    (main,) = (await files.configuration(str(tmp_path / "dangling"))).files
    assert (main.text, main.problem, main.link) == (None, "no such file or directory", str(tmp_path / "gone.conf"))


async def test_what_cannot_be_read_is_said(files: LocalDataFiles, conf: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "big").write_bytes(b"#" * (redis_conf_files.LARGEST + 1))
    (tmp_path / "binary").write_bytes(b"# \xe4\xff\r\n")
    conf.write_text("".join(f"include {tmp_path}/{name}\n" for name in ("fifo", "folder", "big", "binary")))
    _, fifo, folder, big, binary = (await files.configuration(str(conf))).files
    assert (fifo.text, fifo.problem) == (None, "not a regular file")
    assert (folder.text, folder.problem) == (None, "is a directory")
    assert (big.text, big.problem) == (None, "larger than 1048576 bytes")
    assert binary.text is not None
    assert binary.text.encode("utf-8", "surrogateescape") == b"# \xe4\xff\r\n"


async def test_no_more_than_64_files(files: LocalDataFiles, conf: Path, tmp_path: Path) -> None:
    for number in range(70):
        (tmp_path / f"{number:02}.conf").write_text("timeout 1\n")
    conf.write_text(f"include {tmp_path}/*.conf\n")
    tree = await files.configuration(str(conf))
    assert [file.text is None for file in tree.files] == [False] * 64 + [True] * 7
    assert tree.files[-1].problem == "not read: there are more than 64 files"


def test_what_is_not_ours_to_read(conf: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.d"
    secret.mkdir()
    (secret / "x.conf").write_text("appendonly yes\n")
    conf.write_text(f"include {secret}/*.conf\ninclude {secret}/x.conf\n")
    ask = "[(f.path, f.text, f.problem) for f in (await files.configuration(sys.argv[1])).files[1:]]"
    secret.chmod(0)
    told = elsewhere(ask, str(conf), prefix=ORDINARY)
    secret.chmod(0o700)
    denied = f"('{secret}/*.conf', None, 'cannot look into {secret}: permission denied')"
    assert told == f"[{denied}, ('{secret}/x.conf', None, 'permission denied')]"


def test_mounts_are_seen(conf: Path) -> None:
    """In namespaces: a file that is mounted alone, and a directory that is read-only."""
    ask = "[(f.mounted, f.writable) for f in (await files.configuration(sys.argv[1])).files]"
    script = 'cp "$1" "$1.other"; mount --bind "$1.other" "$1"'
    assert in_namespace(script, ask, str(conf)) == "[(True, False)]"
    script = 'mount --bind "$2" "$2"; mount -o remount,ro,bind "$2"'
    assert in_namespace(script, ask, str(conf), str(conf.parent)) == "[(False, False)]"
    assert in_namespace(":", ask, str(conf)) == "[(False, True)]"


# -- the threads ------------------------------------------------------------------------------------------------------
async def test_a_file_system_that_hangs() -> None:
    threads, answer = FileThreads(), threading.Event()
    with pytest.raises(AgentdError, match=r"cannot look: the kernel did not answer within 0\.05 s") as caught:
        await threads.run("look", answer.wait, patience=0.05)
    assert caught.value.kind == "file-stuck"
    with pytest.raises(AgentdError, match="an earlier access to files still hangs"):
        await threads.run("look again", lambda: 1)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "files")
    answer.set()
    await asyncio.to_thread(thread.join)
    assert await threads.run("look again", lambda: 1) == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "files"]
