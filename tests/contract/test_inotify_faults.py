"""The FileWatch port when events are lost, limits are reached or a listener fails; what it costs, what it leaves."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from pathlib import Path

import pytest
from watched import Heard, watching

from agentd.adapters import inotify
from agentd.adapters.inotify import Inotify
from agentd.errors import AgentdError


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_busy_parent_does_not_wake_us(tmp_path: Path) -> None:
    """Once the missing directory has come, what else happens beside it is of no interest, not even as a wake-up."""
    folder = tmp_path / "user"
    async with watching(folder) as heard:
        folder.mkdir()
        await heard.until(folder)
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[bytes] = loop.create_future()
        fd = heard.watch._fd
        loop.remove_reader(fd)
        loop.add_reader(fd, lambda: woken.set_result(os.read(fd, 65536)))
        for number in range(20):
            (tmp_path / f"noise{number}").write_text("x")
        (folder / "marker").write_text("x")
        events = await asyncio.wait_for(woken, 5)
        loop.remove_reader(fd)
        assert b"marker" in events
        assert b"noise" not in events


async def test_lost_events_mean_that_anything_may_have_changed(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    async with watching(tmp_path) as heard:
        one, two = tmp_path / "one", tmp_path / "two"
        one.touch()
        for _ in range(limit // 4 + 100):  # two events each, and nobody reads meanwhile
            one.rename(two)
            two.rename(one)
        (tmp_path / "late.service.d").mkdir()
        await heard.until("")
        (tmp_path / "late.service.d/50.conf").write_text("its directory was made while events were lost")
        await heard.until(tmp_path / "late.service.d/50.conf")


async def test_a_listener_that_fails_does_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(tmp_path) as heard:

        def fails(path: str) -> None:
            heard.hear(path)
            raise ValueError(path)

        heard.watch.watch([str(tmp_path)], fails)
        (tmp_path / "a").write_text("x")
        await heard.until(tmp_path / "a")
        (tmp_path / "b").write_text("x")
        await heard.until(tmp_path / "b")
    assert "a listener of file changes failed" in caplog.text


async def test_close_is_final_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_fds()
    heard = Heard()
    heard.watch.watch([str(tmp_path)], heard.hear)
    (tmp_path / "a").write_text("x")
    heard.watch.close()
    heard.watch.close()
    assert open_fds() == before
    async with watching(tmp_path) as other:
        (tmp_path / "b").write_text("x")
        await other.until(tmp_path / "b")
    assert heard.paths == []


async def test_a_listener_that_closes_it(tmp_path: Path) -> None:
    watch, heard = Inotify(), list[str]()
    over = asyncio.Event()

    def closes(path: str) -> None:
        heard.append(path)
        watch.close()
        over.set()

    watch.watch([str(tmp_path)], closes)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("x")
    await asyncio.wait_for(over.wait(), 5)
    assert heard == [str(tmp_path / "a")]


async def test_a_directory_that_comes_while_we_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for it and the watch on its parent: then no event will tell."""
    real, late = inotify._libc(), tmp_path / "late"

    class Slow:
        inotify_init1 = real.inotify_init1
        inotify_rm_watch = real.inotify_rm_watch

        def inotify_add_watch(self, fd: int, path: bytes, mask: int) -> int:
            found = int(real.inotify_add_watch(fd, path, mask))
            if found < 0 and path == os.fsencode(late):
                late.mkdir()
                ctypes.set_errno(errno.ENOENT)
            return found

    monkeypatch.setattr(inotify, "_libc", Slow)
    async with watching(late) as heard:
        (late / "a.service").write_text("x")
        await heard.until(late / "a.service")


async def test_no_instance_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def inotify_init1(self, flags: int) -> int:
            ctypes.set_errno(errno.EMFILE)
            return -1

    monkeypatch.setattr(inotify, "_libc", Refusing)
    with pytest.raises(AgentdError, match="max_user_instances") as caught:
        Inotify().watch([str(tmp_path)], print)
    assert caught.value.kind == "watch-unavailable"


async def test_no_watch_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real = inotify._libc()

    class Full:
        inotify_init1 = real.inotify_init1
        inotify_rm_watch = real.inotify_rm_watch

        def inotify_add_watch(self, fd: int, path: bytes, mask: int) -> int:
            if path.endswith(b"full"):
                ctypes.set_errno(errno.ENOSPC)
                return -1
            return int(real.inotify_add_watch(fd, path, mask))

    monkeypatch.setattr(inotify, "_libc", Full)
    (tmp_path / "full").mkdir()
    (tmp_path / "good").mkdir()
    async with watching(tmp_path / "full", tmp_path / "good") as heard:
        assert heard.watch.problem == f"cannot watch {tmp_path}/full: fs.inotify.max_user_watches is used up"
        (tmp_path / "good/a").write_text("x")
        await heard.until(tmp_path / "good/a")
    assert caplog.text.count("max_user_watches") == 1
