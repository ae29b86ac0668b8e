"""The Store port: what both the journal on disk and its fake promise, then what only a disk can do to us."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from fakes import FakeStore

from agentd.adapters.store import SqliteStore
from agentd.adapters.store_schema import MIGRATIONS
from agentd.errors import AgentdError
from agentd.ports import SlotRecord, Store
from agentd.types import Change, Event, Outcome, PhaseRecord

Opener = Callable[..., AbstractAsyncContextManager[Store]]


def change(number: int, **fields: object) -> Change:
    base = Change(f"c{number}", "switch", "gpu0", "qwen", "dolphin", 1000.0 + number, "release")
    return dataclasses.replace(base, **fields)  # type: ignore[arg-type]


def event(seq: int, **data: str | int | float | bool | None) -> Event:
    return Event(seq, 1000.0 + seq, "switch.done", "gpu0", f"event {seq}", data)


@pytest.fixture(params=["sqlite", "fake"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    fake = FakeStore()

    @asynccontextmanager
    async def make(event_history: int = 10_000) -> AsyncIterator[Store]:
        if request.param == "fake":
            fake._history = event_history
            yield fake
            return
        store = SqliteStore(tmp_path / "state" / "journal.sqlite", event_history=event_history)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    return make


async def test_a_change_survives_whole(opener: Opener) -> None:
    full = change(
        1,
        finished=1010.5,
        outcome=Outcome.ROLLED_BACK,
        exit_code=5,
        message="kein Platz — naïve ☃",
        cause="start: exit 1",
        phases=(PhaseRecord("drain", 1001.0, 0.25, "pass", "0 running"), PhaseRecord("release", 1002.0)),
        origin="default",
    )
    async with opener() as store:
        await store.save_change(change(1))
        assert await store.open_changes() == (change(1),)
        await store.save_change(full)
        assert await store.open_changes() == ()
    async with opener() as store:
        assert await store.change("c1") == full
        assert await store.change("none") is None
        assert await store.changes(10) == (full,)


async def test_changes_come_newest_first_and_open_ones_oldest_first(opener: Opener) -> None:
    async with opener() as store:
        for number in (2, 1, 3):
            await store.save_change(change(number))
        await store.save_change(change(4, created=1003.0))
        await store.save_change(change(2, outcome=Outcome.DONE))
        assert [c.id for c in await store.changes(3)] == ["c4", "c3", "c2"]
        assert [c.id for c in await store.open_changes()] == ["c1", "c3", "c4"]
        assert await store.changes(0) == ()


async def test_slots_keep_the_intent(opener: Opener) -> None:
    record = SlotRecord("gpu0", "qwen", True, 2000.0, "dolphin", {"dolphin": (2, 1234.5)})
    async with opener() as store:
        assert await store.slot("gpu0") == SlotRecord("gpu0")
        await store.save_slot(SlotRecord("gpu0", "dolphin"))
        await store.save_slot(record)
        await store.save_slot(SlotRecord("gpu1", None, True))
    async with opener() as store:
        assert await store.slot("gpu0") == record
        assert (await store.slot("gpu1")).decided


async def test_events_are_bounded_and_paged(opener: Opener) -> None:
    async with opener(event_history=5) as store:
        assert await store.last_event_seq() == 0
        await store.append_events([])
        await store.append_events([event(n, ok=True, seconds=1.5, model=None) for n in range(1, 4)])
        await store.append_events([event(n) for n in range(4, 9)])
        assert [e.seq for e in await store.events(100)] == [4, 5, 6, 7, 8]
        assert [e.seq for e in await store.events(2)] == [7, 8]
        assert [e.seq for e in await store.events(100, after=6)] == [7, 8]
        assert await store.events(0) == ()
        await store.append_events([event(8, again="yes")])
    async with opener(event_history=5) as store:
        assert await store.last_event_seq() == 8
        assert (await store.events(1))[0] == event(8, again="yes")


# -- only the real one ------------------------------------------------------------------------------------------------
@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agentd" / "journal.sqlite"


async def test_files_are_private(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.save_change(change(1))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
    assert modes.keys() >= {"journal.sqlite", "journal.sqlite-wal", "journal.lock"}
    assert set(modes.values()) == {0o600}
    await store.close()
    await store.close()
    with pytest.raises(AgentdError, match="it is closed"):
        await store.changes(1)


async def test_every_commit_is_synced(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    assert await store._read("PRAGMA journal_mode") == [("wal",)]
    assert await store._read("PRAGMA synchronous") == [(2,)]
    await store.close()


async def test_only_one_agentd_opens_it(path: Path) -> None:
    first, second = SqliteStore(path), SqliteStore(path)
    await first.open()
    with pytest.raises(AgentdError) as caught:
        await second.open()
    assert caught.value.kind == "already-running"
    assert caught.value.message == f"cannot open the journal {path}: another agentd (pid {os.getpid()}) uses it"
    await first.close()
    await second.open()
    await second.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from agentd.adapters.store import SqliteStore
from agentd.types import Change, Event

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    for n in range(1, 100000):
        await store.save_change(Change(f"c{n}", "switch", "gpu0", "qwen", None, float(n), "start"))
        await store.append_events([Event(n, float(n), "k", "s", "m")])
        print(n, flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_is_there_after_kill_9(path: Path) -> None:
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(path), stdout=subprocess.PIPE)
    assert writer.stdout is not None
    for _ in range(40):
        await writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    rest = (await writer.stdout.read()).split()
    await writer.wait()
    acknowledged = 40 + len([n for n in rest if n])
    store = SqliteStore(path)
    await store.open()
    assert not store.recovered_from_corruption
    assert {c.id for c in await store.open_changes()} >= {f"c{n}" for n in range(1, acknowledged + 1)}
    assert await store.last_event_seq() >= acknowledged
    await store.close()


@pytest.mark.parametrize("damage", ["garbage", "header", "middle"])
async def test_a_damaged_journal_is_kept_and_replaced(path: Path, damage: str) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.append_events([event(n, text="x" * 500) for n in range(1, 200)])
    await store.close()
    whole = path.read_bytes()
    broken = {
        "garbage": b"not a database " * 100,
        "header": b"\0" * 100 + whole[100:],
        "middle": whole[:4096] + b"\xff" * (len(whole) - 8192) + whole[-4096:],
    }[damage]
    path.write_bytes(broken)
    store = SqliteStore(path)
    await store.open()
    assert store.recovered_from_corruption
    assert Path(store.recovered_from).read_bytes() == broken
    assert store.recovered_from.startswith(f"{path}.corrupt-")
    await store.save_change(change(1))
    assert await store.last_event_seq() == 0
    await store.close()
    again = SqliteStore(path)
    await again.open()
    assert not again.recovered_from_corruption
    assert await again.change("c1") == change(1)
    await again.close()


async def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    store = SqliteStore(path)
    known = len(MIGRATIONS)
    with pytest.raises(AgentdError, match=f"it has schema {known + 1}, this agentd knows up to {known}") as caught:
        await store.open()
    assert caught.value.kind == "journal-newer"
    await store.close()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    assert len(before) == path.stat().st_size


async def test_an_unusable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(tmp_path / "file" / "journal.sqlite")
    with pytest.raises(AgentdError) as caught:
        await store.open()
    assert caught.value.kind == "journal-failed"
    assert caught.value.message.startswith(f"cannot open the journal {tmp_path}/file/journal.sqlite: ")
    await store.close()


FULL = """
import asyncio, os, sys
from pathlib import Path
from agentd.adapters.store import SqliteStore
from agentd.errors import AgentdError
from agentd.types import Change, Event

async def main():
    place = Path(sys.argv[1])
    store = SqliteStore(place / "agentd" / "journal.sqlite")
    await store.open()
    filler = place / "filler"
    n = 0
    with filler.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"x" * 4096)
        except OSError:
            pass
    try:
        for n in range(1, 5000):
            await store.save_change(Change(f"c{n}", "switch", "gpu0", "q" * 500, None, float(n), "start"))
    except AgentdError as error:
        print(error.kind, "|", error.message, "|", error.hint, flush=True)
    kept = await store.changes(5000)
    assert len(kept) == n - 1, (len(kept), n)
    filler.unlink()
    await store.save_change(Change("after", "switch", "gpu0", "q", None, 1.0, "start"))
    assert (await store.change("after")) is not None
    await store.close()
    print("recovered", n)

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounts a small tmpfs: needs root")
async def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    process = await asyncio.create_subprocess_exec(
        "unshare", "-m", "sh", "-c", script, FULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path.cwd()
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    told, recovered = output.splitlines()
    journal = tmp_path / "agentd" / "journal.sqlite"
    assert told == (
        f"journal-full | cannot write to the journal {journal}: the disk is full"
        f" | free some space below {journal.parent}"
    )
    assert recovered.startswith("recovered")
