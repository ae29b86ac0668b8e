"""Copies of data files: whole and exact, or not there; whatever happens to the sources, the disk and the process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from elsewhere import ORDINARY, python, python_in_namespace

from agentd.adapters import redis_copies
from agentd.adapters.file_threads import Pulse, Stopped
from agentd.adapters.redis_files import LocalDataFiles
from agentd.errors import AgentdError
from agentd.stores import FileDigest

MEBIBYTE = 1024 * 1024
COPY = """
import sys
from agentd.adapters import redis_copies
from agentd.adapters.file_threads import Pulse
from agentd.errors import AgentdError
try:
    redis_copies.copy({"x": sys.argv[1]}, sys.argv[2], Pulse())
except AgentdError as error:
    print(f"{error.kind}: {error.message}")
"""


class Hook(Pulse):
    """Does something between two steps of a copy."""

    def __init__(self, *todo: Callable[[], object]) -> None:
        super().__init__()
        self.todo = list(todo)

    def beat(self) -> None:
        super().beat()
        if self.todo:
            self.todo.pop(0)()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "dump.rdb").write_bytes(os.urandom(3 * MEBIBYTE + 17))
    (folder / "appendonlydir" / "a.1.incr.aof").write_bytes(os.urandom(2 * MEBIBYTE))
    (folder / "appendonlydir" / "a.manifest").write_bytes(b"file a.1.incr.aof seq 1 type i\n")
    (folder / "empty").touch()
    return folder


def sources(data: Path) -> dict[str, str]:
    return {str(path.relative_to(data)): str(path) for path in data.rglob("*") if path.is_file()}


def digests(folder: Path) -> tuple[FileDigest, ...]:
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    read = ((name, (folder / name).read_bytes()) for name in found)
    return tuple(FileDigest(name, len(text), hashlib.sha256(text).hexdigest()) for name, text in read)


async def test_a_copy_is_exact_and_private(data: Path, tmp_path: Path) -> None:
    files, target = LocalDataFiles(), tmp_path / "backups" / "store" / "one"
    old = os.umask(0)
    try:
        told = await files.copy(sources(data), str(target))
    finally:
        os.umask(old)
    assert told == digests(data) == digests(target) == await files.digest(str(target))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in target.rglob("*") if path.is_file()}
    folders = (target.parent.parent, target.parent, target, target / "appendonlydir")
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    assert [path.name for path in target.parent.iterdir()] == ["one"]


async def test_a_missing_source_leaves_nothing(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "copy"
    with pytest.raises(AgentdError) as caught:
        await LocalDataFiles().copy({**sources(data), "gone": str(data / "gone")}, str(target))
    assert (caught.value.kind, caught.value.message) == (
        "file-missing",
        f"cannot read {data / 'gone'}: no such file or directory",
    )
    assert not target.parent.exists()


def test_a_source_that_is_not_ours_to_read(data: Path, tmp_path: Path) -> None:
    (data / "dump.rdb").chmod(0)
    done = python(COPY, str(data / "dump.rdb"), str(tmp_path / "copy"), prefix=ORDINARY)
    assert done.startswith(f"file-denied: cannot read {data / 'dump.rdb'}: permission denied for user {os.geteuid()}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "a/../../x"])
async def test_only_names_below_the_target(data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(AgentdError, match="not a name below the target") as caught:
        await LocalDataFiles().copy({name: str(data / "dump.rdb")}, str(tmp_path / "copy"))
    assert caught.value.kind == "file-outside"


async def test_what_is_no_file(data: Path, tmp_path: Path) -> None:
    os.mkfifo(data / "fifo")
    for path in (data / "fifo", data):
        with pytest.raises(AgentdError, match="not a regular file"):
            await LocalDataFiles().copy({"x": str(path)}, str(tmp_path / "copy"))
    (data / "fifo").unlink()
    (data / "link").symlink_to(data / "dump.rdb")
    with pytest.raises(AgentdError) as caught:
        await LocalDataFiles().digest(str(data))
    assert caught.value.kind == "file-read", "a checksum is of what lies there, not of what it points to"
    with pytest.raises(AgentdError) as caught:
        await LocalDataFiles().digest(str(tmp_path / "none"))
    assert caught.value.kind == "file-missing"


async def test_a_target_that_exists_is_kept(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    with pytest.raises(AgentdError, match="it exists already") as caught:
        await LocalDataFiles().copy(sources(data), str(target))
    assert caught.value.kind == "file-exists"
    assert list(target.iterdir()) == []


async def test_what_a_killed_run_left_goes_first(data: Path, tmp_path: Path) -> None:
    partial = tmp_path / "copy.partial"
    (partial / "appendonlydir").mkdir(parents=True)
    (partial / "appendonlydir" / "a.1.incr.aof").write_text("half")
    (partial / "stray").symlink_to(data)
    await LocalDataFiles().copy(sources(data), str(tmp_path / "copy"))
    assert digests(tmp_path / "copy") == digests(data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data"]


async def test_a_link_in_the_place_of_the_partial_copy_is_not_followed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "kept").touch()
    (tmp_path / "copy.partial").symlink_to(tmp_path / "theirs")
    with pytest.raises(AgentdError) as caught:
        await LocalDataFiles().copy(sources(data), str(tmp_path / "copy"))
    assert caught.value.kind == "file-exists"
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["kept"]


# -- sources that live on ---------------------------------------------------------------------------------------------
def test_a_source_that_grows(data: Path, tmp_path: Path) -> None:
    def grow() -> None:
        with (data / "dump.rdb").open("ab") as stream:
            stream.write(b"later" * MEBIBYTE)

    before = digests(data)
    assert redis_copies.copy(sources(data), str(tmp_path / "copy"), Hook(grow, grow, grow)) == before
    assert digests(tmp_path / "copy") == before


def test_sources_that_are_unlinked_and_replaced(data: Path, tmp_path: Path) -> None:
    def rewrite() -> None:
        for path in list(data.rglob("*")):
            if path.is_file():
                path.unlink()
                path.write_text("of the next rewrite")

    before = digests(data)
    assert redis_copies.copy(sources(data), str(tmp_path / "copy"), Hook(rewrite)) == before
    assert digests(tmp_path / "copy") == before


def test_a_source_that_becomes_shorter(data: Path, tmp_path: Path) -> None:
    cut = Hook(lambda: os.truncate(data / "dump.rdb", 5))
    with pytest.raises(AgentdError, match="became shorter than 3145745 bytes") as caught:
        redis_copies.copy(sources(data), str(tmp_path / "copy"), cut)
    assert caught.value.kind == "file-changed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_two_at_the_same_target(data: Path, tmp_path: Path) -> None:
    told: list[AgentdError] = []

    def second() -> None:
        with pytest.raises(AgentdError) as caught:
            redis_copies.copy(sources(data), str(tmp_path / "copy"), Pulse())
        told.append(caught.value)

    redis_copies.copy(sources(data), str(tmp_path / "copy"), Hook(second))
    assert [error.kind for error in told] == ["file-busy"]
    assert digests(tmp_path / "copy") == digests(data)


# -- ended before its time --------------------------------------------------------------------------------------------
def test_a_stopped_copy_leaves_nothing(data: Path, tmp_path: Path) -> None:
    pulse = Hook(lambda: None, lambda: pulse.stop())
    with pytest.raises(Stopped):
        redis_copies.copy(sources(data), str(tmp_path / "copy"), pulse)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


async def test_a_cancelled_copy_has_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big, begun, loop = tmp_path / "big", asyncio.Event(), asyncio.get_running_loop()
    big.touch()
    os.truncate(big, 2**40)  # Sparse: it never comes to its end.
    write = redis_copies._write

    def first(descriptor: int, piece: memoryview) -> None:
        write(descriptor, piece)
        loop.call_soon_threadsafe(begun.set)

    monkeypatch.setattr(redis_copies, "_check_space", lambda *_: None)
    monkeypatch.setattr(redis_copies, "_write", first)
    work = asyncio.ensure_future(LocalDataFiles().copy({"big": str(big)}, str(tmp_path / "copy")))
    await asyncio.wait_for(begun.wait(), 20)
    assert (tmp_path / "copy.partial" / "big").stat().st_size > 0
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """50 MiB, written before the loop is watched."""
    (tmp_path / "big").write_bytes(os.urandom(MEBIBYTE) * 50)
    return tmp_path / "big"


async def test_fifty_megabytes(tmp_path: Path, big: Path) -> None:
    """The loop runs on meanwhile: conftest.py looks at that."""
    start = time.monotonic()
    (told,) = await LocalDataFiles().copy({"dump.rdb": str(big)}, str(tmp_path / "copy"))
    seconds = time.monotonic() - start
    assert told.size == 50 * MEBIBYTE
    assert (tmp_path / "copy" / "dump.rdb").stat().st_size == 50 * MEBIBYTE
    assert seconds < 10, f"{50 / seconds:.0f} MB/s"


FULL = """
import os, sys
from pathlib import Path
from agentd.adapters import redis_copies
from agentd.adapters.file_threads import Pulse
from agentd.errors import AgentdError
data, target = Path(sys.argv[1]), Path(sys.argv[2]) / "copy"
sources = {str(p.relative_to(data)): str(p) for p in data.rglob("*") if p.is_file()}
def attempt(pulse):
    try:
        redis_copies.copy(sources, str(target), pulse)
        print("copied")
    except AgentdError as error:
        print(error.kind, error.message, sep=": ")
    print(*sorted(os.listdir(target.parent)))
(target.parent / "filler").write_bytes(bytes(5 * 1024 * 1024))
attempt(Pulse())
(target.parent / "filler").unlink()
class Late(Pulse):
    def beat(self):
        with open(target.parent / "filler", "ab", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(65536))
            except OSError:
                pass
attempt(Late())
(target.parent / "filler").unlink()
attempt(Pulse())
"""


def test_a_full_disk(data: Path, tmp_path: Path) -> None:
    """In a small tmpfs of its own namespace: seen before, met on the way, and freed again."""
    mount = f"mount -t tmpfs -o size=8m none {tmp_path}/small"
    (tmp_path / "small").mkdir()
    said = python_in_namespace(mount, FULL, str(data), f"{tmp_path}/small")
    needed = int(sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) * 1.05)
    early, _, late, left, whole, there = said.splitlines()
    assert early == f"disk-full: cannot copy to {tmp_path}/small: {needed} bytes are needed and 3145728 are free"
    assert late == f"disk-full: cannot copy to {tmp_path}/small/copy: no space left on device"
    assert left == "filler"
    assert (whole, there) == ("copied", "copy")
