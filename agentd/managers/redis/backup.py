"""Backups of a store: a fresh RDB and the parts of the append-only file, loaded once before older ones go."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agentd.core import redis_backup as record
from agentd.core.redis_backup import PARTIAL, RECORD, BackupInfo
from agentd.core.redis_drill import memory_wanted
from agentd.core.redis_layout import Layout, layout
from agentd.engine.steps import Step
from agentd.errors import AgentdError
from agentd.managers.redis.copying import append_only
from agentd.managers.redis.waiting import fresh_save, idle
from agentd.ports import Clock
from agentd.ports_backup import BackupFiles
from agentd.ports_redis import RedisAdmin, ScratchServers
from agentd.stores import FileDigest, RedisState

TRIES = 3
"""How often everything is copied again because a rewrite replaced the append-only files meanwhile."""


@dataclass(frozen=True, slots=True)
class BackupResult:
    path: str
    info: BackupInfo
    removed: tuple[str, ...] = ()
    """Names of the older ones that were removed."""
    notes: tuple[str, ...] = ()


class Backups:
    """Of one server. `memory_available`: bytes."""

    def __init__(
        self,
        admin: RedisAdmin,
        files: BackupFiles,
        scratch: ScratchServers,
        clock: Clock,
        memory_available: Callable[[], int],
    ) -> None:
        self._admin = admin
        self._files = files
        self._scratch = scratch
        self._clock = clock
        self._memory_available = memory_available

    async def take(
        self,
        name: str,
        running: Mapping[str, str],
        target: str,
        keep: int | None,
        *,
        timeout: float,
        executable: str,
        progress: Step,
    ) -> BackupResult:
        """A new directory below `target`; older ones but the newest `keep` are removed when it was verified.

        `timeout` holds for each wait: for the save, for a rewrite, for the loading. Raises AgentdError, and then
        nothing of it is left. The caller sees to it that no data was just lost.
        """
        places = _places(name, running)
        names = await self._files.prepare(target)
        for leftover in record.leftovers(name, names):
            await self._files.remove(f"{target}/{leftover}")
        await progress("save", "Redis writes its data set to the disk (BGSAVE)")
        state = await self._saved(name, timeout)
        now = self._clock.time()
        path = f"{target}/{record.free_name(name, now, names)}"
        partial = path + PARTIAL
        try:
            await progress("copy", f"to {path}")
            files, notes = await self._copy(places, partial, timeout)
            info = _info(name, state, places, files, now)
            await progress("load", "a server of its own reads the copy")
            info, doubts = await self._verified(info, state, partial, path, executable=executable, timeout=timeout)
            await self._files.write(f"{partial}/{RECORD}", record.to_json(info))
            await self._files.move(partial, path)
        except BaseException:
            await asyncio.shield(self._files.remove(partial))
            raise
        await progress("tidy", "older backups")
        removed, problems = await self._tidy(name, target, keep, new=path.rpartition("/")[2])
        return BackupResult(path, info, removed, (*notes, *doubts, *problems))

    async def _saved(self, name: str, timeout: float) -> RedisState:
        state = await self._admin.state()
        if state.loading:
            raise AgentdError("redis-loading", f"cannot back up {name}: Redis is still loading its data set")
        return await fresh_save(self._admin, self._clock, timeout=timeout)

    async def _copy(
        self, places: Layout, partial: str, timeout: float
    ) -> tuple[tuple[FileDigest, ...], tuple[str, ...]]:
        """(files, notes). Without the append-only file, and with a note, when it cannot be had: the RDB is what a
        restore gives back."""
        problem = ""
        for _ in range(TRIES):
            state = await idle(self._admin, self._clock, timeout=timeout)
            if not state.aof_enabled:
                break
            try:
                found = await self._copy_all(places, partial)
            except AgentdError as error:
                if error.kind not in ("file-missing", "file-changed", "file-denied", "aof-manifest"):
                    raise
                problem = error.message
                if error.kind == "file-denied":
                    break
                continue  # A rewrite was quicker.
            if found:
                return found, ()
            problem = f"Redis rewrote {places.aof} meanwhile, {TRIES} times"
        try:
            rdb_only = await self._files.copy({places.dbfilename: places.rdb}, partial)
        except AgentdError as error:
            if error.kind != "file-denied":
                raise
            raise AgentdError(error.kind, error.message, hint=await self._files.access(places.rdb)) from None
        return rdb_only, (f"without the append-only file: {problem}",) if problem else ()

    async def _copy_all(self, places: Layout, partial: str) -> tuple[FileDigest, ...]:
        """() when the append-only file was rewritten while it was copied."""
        parts = await append_only(self._files, places)
        found = await self._files.copy({places.dbfilename: places.rdb, **parts.sources}, partial)
        if (await append_only(self._files, places)).manifest == parts.manifest:
            return found
        await self._files.remove(partial)
        return ()

    async def _verified(
        self, info: BackupInfo, state: RedisState, partial: str, path: str, *, executable: str, timeout: float
    ) -> tuple[BackupInfo, tuple[str, ...]]:
        """The record with what a server counted; as it was, with a note, where none can be started."""
        wanted, available = memory_wanted(state.used_memory), self._memory_available()
        if available <= wanted:
            return info, (f"not loaded for a check: {wanted} bytes of memory are needed and {available} are available",)
        check = record.check_name(path, secrets.token_hex(3))
        rdb = info.names["dbfilename"]
        try:
            await self._files.link({rdb: f"{partial}/{rdb}"}, check)
            found = await self._scratch.load(
                check, appendonly=False, executable=executable, config=info.names, timeout=timeout
            )
        except AgentdError as error:
            if error.kind == "drill-failed":
                hint = "nothing was kept of it, and no older backup was removed"
                raise AgentdError("backup-unusable", f"the copy cannot be loaded: {error.message}", hint=hint) from None
            if error.kind in ("drill-no-server", "drill-timeout"):
                return info, (f"not loaded for a check: {error.message}",)
            raise
        finally:
            await asyncio.shield(self._files.remove(check))
        return replace(info, keys=dict(found.keys), expires=dict(found.expires), loaded=True), ()

    async def _tidy(
        self, name: str, target: str, keep: int | None, *, new: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(removed, why one could not be)."""
        if keep is None:
            return (), ()
        complete: dict[str, bool] = {}
        for found in record.candidates(name, await self._files.prepare(target)):
            info = await self._known(f"{target}/{found}/{RECORD}")
            if info is not None and info.store == name:
                complete[found] = info.loaded
        removed, problems = [], []
        for old in record.surplus(complete, keep, new=new):
            try:
                await self._files.remove(f"{target}/{old}")
                removed.append(old)
            except AgentdError as error:
                problems.append(error.message)
        return tuple(removed), tuple(problems)

    async def _known(self, path: str) -> BackupInfo | None:
        """None for what is no backup of ours: it is not ours to remove."""
        try:
            text = await self._files.text(path)
            return record.from_json(text, path) if text is not None else None
        except AgentdError:
            return None


def _places(name: str, running: Mapping[str, str]) -> Layout:
    places = layout(running)
    if places is None:
        raise AgentdError(
            "backup-no-directory",
            f"cannot back up {name}: Redis does not say where its files are",
            hint="it says nothing when its directory is gone, or when CONFIG GET is refused",
        )
    return places


def _info(name: str, state: RedisState, places: Layout, files: tuple[FileDigest, ...], now: float) -> BackupInfo:
    keys, expires = record.databases(state)
    names = {key: str(getattr(places, key)) for key in record.NAMES}
    saved = state.rdb_last_save or now
    return BackupInfo(
        name, state.product, state.version, saved, keys, expires, files, names, used_memory=state.used_memory
    )
