"""Copies that are made before anything is changed, and of what is found after a loss."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

from agentd.core.redis_layout import Layout
from agentd.core.redis_view import StoreView
from agentd.errors import AgentdError
from agentd.managers.redis.context import RedisPorts

NO_FILE = "file-missing"
VAGUE = 1.0
"""Seconds. A start is known by the kernel's ticks, and a server may be started anew within one; a copy too many does no
harm."""


def stamp(now: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def left_behind(view: StoreView) -> bool:
    """Whether an append-only file lies there that this run of the server neither reads nor wrote, newer than the RDB.

    Switching the append-only file on deletes it, and it may hold what the RDB lacks."""
    if view.aof is None or view.state.aof_enabled or not view.aof.newest or view.manifest is None:
        return False
    return view.aof.newest < view.started + VAGUE and view.aof.newest > (view.rdb_mtime or 0.0)


async def keep_aof(ports: RedisPorts, view: StoreView, target: str) -> None:
    """A copy of an append-only file that would be deleted. Raises AgentdError."""
    assert view.layout is not None
    await ports.files.link(_aof_sources(view, view.layout), target)


async def copy_rdb(ports: RedisPorts, name: str, layout: Layout) -> str:
    """The directory with the copy of the RDB, "" where it is not there or may not be read. A second name of the same
    file is as good: Redis writes another one and renames it."""
    try:
        target = await place(ports, name, "safety")
        await ports.files.link({layout.dbfilename: layout.rdb}, target)
        await forget(ports, name, but=target)  # One is enough; each pins a whole old RDB on the disk.
    except AgentdError as error:
        if error.kind in (NO_FILE, "file-denied"):
            return ""
        raise
    return target


async def forget(ports: RedisPorts, name: str, *, but: str = "") -> None:
    """Remove the copies that `copy_rdb` made, also those of enforcements that were cut off or failed."""
    for path in await ports.state_files.find(f"{ports.state_dir}/{name}", "safety-*"):
        if path != but:
            await ports.files.remove(path)


async def keep_evidence(ports: RedisPorts, view: StoreView) -> tuple[str, str]:
    """(directory with copies of all that lies on the disk, "" when there is none; why it is not complete)."""
    if view.layout is None or not view.local:
        return "", "its files are not on this machine" if not view.local else "its directory is not known"
    sources = {**_aof_sources(view, view.layout)}
    if view.rdb_mtime is not None:
        sources[view.layout.dbfilename] = view.layout.rdb
    if not sources:
        return "", "there is neither an RDB nor an append-only file, or they cannot be read"
    try:
        target = await place(ports, view.name, "evidence")
        await ports.files.copy(sources, target)
    except AgentdError as error:
        return "", error.message
    return target, ""


async def place(ports: RedisPorts, name: str, what: str) -> str:
    """A new directory's name, in one that is there: an enforcement that was cut off may be done again within the same
    second. Raises AgentdError."""
    directory = f"{ports.state_dir}/{name}"
    taken = await ports.files.prepare(directory)
    first = f"{what}-{stamp(ports.clock.time())}"
    names = itertools.chain((first,), (f"{first}-{number}" for number in itertools.count(2)))
    return f"{directory}/{next(name for name in names if name not in taken)}"


def _aof_sources(view: StoreView, layout: Layout) -> dict[str, str]:
    names: Iterable[str] = view.aof.sizes if view.aof is not None else ()
    return {f"{layout.appenddirname}/{name}": f"{layout.aof}/{name}" for name in names if not name.startswith("temp-")}
