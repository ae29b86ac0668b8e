"""The drill: what the next start would find is copied, a server is started on the copy, and its keys are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentd.core.redis_drill import (
    Expected,
    expected_of_aof,
    expected_of_rdb,
    figures,
    memory_wanted,
    same_save,
    shortfall,
)
from agentd.core.redis_layout import LAYOUT_NAMES, Layout, layout
from agentd.engine.steps import Step
from agentd.errors import AgentdError
from agentd.managers.redis.copying import append_only
from agentd.managers.redis.waiting import idle, until
from agentd.ports import Clock
from agentd.ports_backup import BackupFiles
from agentd.ports_redis import RedisAdmin, ScratchServers
from agentd.stores import RedisState, ScratchResult

COPY = "copy"
TRIES = 3
"""How often it is copied again because a save or a rewrite came between."""
FLUSH = 3.0
"""Seconds to wait for what is written already to reach the file; Redis holds it back for two at most."""
CATCH_UP = 10.0
"""Seconds for the server to drop keys that are expired already, when there are fewer on the copy."""


@dataclass(frozen=True, slots=True)
class DrillResult:
    """`ok`: the next start brings the data back. What kept the drill from being held at all is an AgentdError."""

    ok: bool
    expected_low: int
    expected_high: int
    found: int
    seconds: float
    """That the copy took to load."""
    message: str


@dataclass(frozen=True, slots=True)
class _Copied:
    before: RedisState
    after: RedisState


async def drill(
    admin: RedisAdmin,
    files: BackupFiles,
    scratch: ScratchServers,
    clock: Clock,
    running: Mapping[str, str],
    effective: Mapping[str, str],
    *,
    place: str,
    executable: str,
    memory_available: Callable[[], int],
    timeout: float,
    progress: Step,
) -> DrillResult:
    """`effective`: what the next start reads of appendonly, dir, dbfilename, appenddirname and appendfilename; what it
    does not say is as in `running`. `place`: a directory for this store's copy alone, emptied before and after.
    `timeout` holds for each wait."""
    aof = effective.get("appendonly", running.get("appendonly", "no")) == "yes"
    work = _Drill(admin, files, scratch, clock, effective, place, timeout, aof, _next_layout(running, effective))
    await work.ready(memory_available)
    try:
        await progress("copy", "what the next start would read")
        try:
            copied = await work.copy()
        except AgentdError as error:
            if error.kind != "aof-manifest":
                raise
            return DrillResult(False, 0, 0, 0, 0.0, f"the next start would fail: {error.message}")
        await progress("load", "a server of its own is started on the copy")
        return await work.judge(copied, executable)
    finally:
        await asyncio.shield(files.remove(f"{place}/{COPY}"))


@dataclass(frozen=True, slots=True)
class _Drill:
    admin: RedisAdmin
    files: BackupFiles
    scratch: ScratchServers
    clock: Clock
    effective: Mapping[str, str]
    place: str
    timeout: float
    aof: bool
    """The next start reads the append-only file, not the RDB."""
    layout: Layout

    async def ready(self, memory_available: Callable[[], int]) -> None:
        """Raises AgentdError when the drill cannot be held."""
        state = await self.admin.state()
        if state.loading:
            raise AgentdError("redis-loading", "cannot hold a drill: Redis is still loading its data set")
        wanted, available = memory_wanted(state.used_memory), memory_available()
        if available <= wanted:
            raise AgentdError(
                "drill-no-memory",
                f"cannot hold a drill: a second server needs {wanted} bytes of memory, and {available} are available",
                hint="hold it when a model is unloaded",
            )
        for leftover in await self.files.prepare(self.place):
            if leftover.startswith(COPY):
                await self.files.remove(f"{self.place}/{leftover}")

    async def copy(self) -> _Copied:
        for attempt in range(1, TRIES + 1):
            before = await idle(self.admin, self.clock, timeout=self.timeout)
            if self.aof:
                await self._flushed()
            try:
                whole = await self._copy_once()
            except AgentdError as error:
                if attempt < TRIES and error.kind in ("file-missing", "file-changed"):
                    continue  # A rewrite was quicker.
                raise await self._explained(error) from None
            after = await self.admin.state()
            if after.run_id != before.run_id:
                raise AgentdError("redis-restarted", "cannot hold a drill: Redis was started anew meanwhile")
            if whole and (same_save(before, after) or attempt == TRIES):
                return _Copied(before, after)
            await self.files.remove(self._copied)
        raise AgentdError(
            "drill-busy",
            f"cannot hold a drill: Redis rewrote {self.layout.aof} during each of {TRIES} tries",
            hint="hold it when less is written",
        )

    async def _flushed(self) -> None:
        """What was written before this call is in the file when it returns: Redis holds it back for a moment."""

        def empty(state: RedisState) -> bool:
            return state.fields.get("aof_buffer_length", "0") == "0" and not state.aof_pending_fsync

        try:
            await until(self.admin, self.clock, empty, timeout=FLUSH, what="waiting for the append-only file")
        except AgentdError as error:
            if error.kind != "redis-slow":
                raise

    async def _copy_once(self) -> bool:
        """False when the append-only file was rewritten meanwhile. What is not there is not copied: the server that is
        started then says what comes of it."""
        if self.aof:
            parts = await append_only(self.files, self.layout)
            await self.files.copy(parts.sources or await self._old_sources(), self._copied)
            return (await append_only(self.files, self.layout)).manifest == parts.manifest
        try:
            await self.files.copy({self.layout.dbfilename: self.layout.rdb}, self._copied)
        except AgentdError as error:
            if error.kind != "file-missing":
                raise
            await self.files.copy({}, self._copied)
        return True

    async def _old_sources(self) -> Mapping[str, str]:
        """The single append-only file of Redis before 7, which a newer one takes over."""
        old = f"{self.layout.directory}/{self.layout.appendfilename}"
        return {self.layout.appendfilename: old} if await self.files.mtime(old) is not None else {}

    async def _explained(self, error: AgentdError) -> AgentdError:
        if error.kind != "file-denied":
            return error
        path = self.layout.aof if self.aof else self.layout.rdb
        return AgentdError(error.kind, f"cannot hold a drill: {error.message}", hint=await self.files.access(path))

    async def judge(self, copied: _Copied, executable: str) -> DrillResult:
        config = {name: getattr(self.layout, name) for name in LAYOUT_NAMES[1:]}
        expected = self._expected(copied, copied.after)
        # A copy that was made while Redis wrote may end within a command, which says nothing of the file.
        config["aof-load-truncated"] = "yes" if expected.changes else self.effective.get("aof-load-truncated", "yes")
        try:
            found = await self.scratch.load(
                self._copied, appendonly=self.aof, executable=executable, config=config, timeout=self.timeout
            )
        except AgentdError as error:
            if error.kind != "drill-failed":
                raise
            message = f"the next start would fail with {self._source}: {error.message}"
            return DrillResult(False, expected.total.low, expected.total.high, 0, 0.0, message)
        now = await self.admin.state()
        expected = self._expected(copied, now)
        if shortfall(expected, found.keys, found.expires):
            expected = await self._caught_up(copied, found, now)
        return self._result(copied, found, expected)

    def _expected(self, copied: _Copied, now: RedisState, *, stale: bool = False) -> Expected:
        expected_of = expected_of_aof if self.aof else expected_of_rdb
        return expected_of(copied.before, copied.after, now, stale=stale)

    async def _caught_up(self, copied: _Copied, found: ScratchResult, now: RedisState) -> Expected:
        """Keys that expired are gone from the copy at once, from the server after a while."""
        exact = self._expected(copied, now)
        passing = sum(found.expires.values())
        if found.total - passing not in exact.lasting or passing >= exact.passing.low:
            return exact

        def agrees(state: RedisState) -> bool:
            return not shortfall(self._expected(copied, state), found.keys, found.expires)

        try:
            what = "waiting for expired keys to go"
            state = await until(self.admin, self.clock, agrees, timeout=CATCH_UP, what=what)
        except AgentdError as error:
            if error.kind != "redis-slow":
                raise
            return self._expected(copied, await self.admin.state(), stale=True)
        return self._expected(copied, state)

    def _result(self, copied: _Copied, found: ScratchResult, expected: Expected) -> DrillResult:
        wrong = shortfall(expected, found.keys, found.expires)
        ok, message = not wrong, f"the next start brings back {found.total} keys from {self._source}"
        if wrong:
            message = f"the next start would bring back {found.total} keys from {self._source}: {wrong}"
        elif self.aof and not copied.after.aof_enabled:
            ok = False
            message = f"the next start would read {self._source}, which Redis does not write now"
        elif not self.aof and copied.after.keys and not found.total:
            ok = False
            message = f"the next start would begin empty: {self._source} holds none of {copied.after.keys} keys"
        elif not self.aof and copied.after.rdb_changes:
            message += f"; {copied.after.rdb_changes} changes since are not in it"
        elif expected.changes:
            message += f" ({figures(expected.total)} were expected while clients wrote)"
        total = expected.total
        return DrillResult(ok, total.low, total.high, found.total, found.seconds, message)

    @property
    def _copied(self) -> str:
        return f"{self.place}/{COPY}"

    @property
    def _source(self) -> str:
        return self.layout.manifest if self.aof else self.layout.rdb


def _next_layout(running: Mapping[str, str], effective: Mapping[str, str]) -> Layout:
    """Where the next start looks. A relative directory of the file is the one that the server is in."""
    names = {name: value for name in LAYOUT_NAMES if (value := effective.get(name))}
    if not names.get("dir", "/").startswith("/"):
        del names["dir"]
    places = layout({**running, **names})
    if places is None:
        raise AgentdError("drill-no-directory", "cannot hold a drill: Redis does not say where its files are")
    return places
