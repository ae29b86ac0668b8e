"""A backup brought back into a server's directory: checked in full first, then put into place by a few renames."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from agentd.core.redis_backup import (
    NAMES,
    RECORD,
    BackupInfo,
    check_name,
    damaged,
    from_json,
    missing_keys,
    stamp,
    wrong_files,
)
from agentd.core.redis_drill import memory_wanted
from agentd.core.redis_layout import Layout, layout
from agentd.core.redis_placement import Placement
from agentd.engine.steps import Step
from agentd.errors import AgentdError
from agentd.ports import Clock
from agentd.ports_backup import BackupFiles
from agentd.ports_redis import ScratchServers
from agentd.stores import ScratchResult

TIMEOUT = 1800.0
"""Seconds for a server to load the backup."""


@dataclass(frozen=True, slots=True)
class RestoreResult:
    keys: int
    """In the backup, as a server loaded them now; as recorded where none could be started."""
    expires: int
    placed: tuple[str, ...]
    """Names below the directory; () when it was only checked."""
    kept: str
    """The directory with the files that were there before; "" when there were none."""
    message: str


@dataclass(frozen=True, slots=True)
class Check:
    """How a backup is loaded to see that it is whole."""

    files: BackupFiles
    scratch: ScratchServers
    place: str
    """A directory in which its RDB gets a second name, or a copy."""
    executable: str
    """"" for the one of the backup's product."""
    memory_available: Callable[[], int]
    timeout: float = TIMEOUT

    async def read(self, backup: str) -> BackupInfo:
        """The record of a backup whose files are what it says. Raises AgentdError("backup-damaged")."""
        path = f"{backup}/{RECORD}"
        text = await self.files.text(path)
        if text is None:
            hint = "name the directory of a backup"
            raise damaged(backup, f"it has no {RECORD}, so it is no backup, or not a whole one", hint)
        info = from_json(text, path)
        wrong = wrong_files(info, await self.files.digest(backup))
        if wrong:
            raise damaged(backup, "; ".join(wrong))
        return info

    async def load(self, backup: str, info: BackupInfo) -> tuple[ScratchResult | None, str]:
        """(what a server counted, ""), or (None, why none could be started). Raises AgentdError("backup-damaged",
        "backup-unusable")."""
        wanted, available = memory_wanted(info.used_memory), self.memory_available()
        if available <= wanted:
            return None, f"{wanted} bytes of memory are needed, and {available} are available"
        try:
            found = await self._counted(backup, info)
        except AgentdError as error:
            if error.kind == "drill-failed":
                hint = "take another backup, or use the version of the server that made it"
                raise AgentdError("backup-unusable", f"cannot use {backup}: {error.message}", hint=hint) from None
            if error.kind == "drill-no-server":
                return None, error.message
            raise
        wrong = missing_keys(info, found.keys, found.expires) if info.loaded else ""
        if wrong:
            raise damaged(backup, wrong)
        return found, ""

    async def _counted(self, backup: str, info: BackupInfo) -> ScratchResult:
        rdb, own = info.rdb.path, "valkey-server" if info.product == "valkey" else ""
        copy = f"{self.place}/{check_name(backup.rpartition('/')[2], secrets.token_hex(3))}"
        try:
            await self.files.link({rdb: f"{backup}/{rdb}"}, copy)
            return await self.scratch.load(
                copy, appendonly=False, executable=self.executable or own, config=info.names, timeout=self.timeout
            )
        finally:
            await asyncio.shield(self.files.remove(copy))


async def restore(
    check: Check,
    backup: str,
    *,
    into: str,
    names: Mapping[str, str],
    clock: Clock,
    check_only: bool,
    in_use: Callable[[], Awaitable[str]],
    progress: Step,
) -> RestoreResult:
    """`into`: the data directory of a server that is stopped ("" with `check_only`). `names`: dbfilename,
    appenddirname and appendfilename of that server, those of the backup where it does not say. `in_use`: a sentence
    when a server seems to use the directory.

    Raises AgentdError; before `progress("commit", ...)` nothing was changed."""
    if not check_only:
        await _refuse_use(in_use)
    await progress("read", f"the checksums of {backup}")
    info = await check.read(backup)
    await progress("load", "a server of its own reads the backup")
    found, problem = await check.load(backup, info)
    keys, expires = (found.keys, found.expires) if found is not None else (info.keys, info.expires)
    good = f"the backup is good (by its checksums; not loaded: {problem})" if problem else "the backup is good"
    if check_only:
        return RestoreResult(sum(keys.values()), sum(expires.values()), (), "", good)
    plan = Placement(
        _places(into, info, names), f"{backup}/{info.rdb.path}", info.rdb.size, info.rdb.sha256, stamp(clock.time())
    )
    kept, placed = await _placed(check.files, plan, in_use, progress)
    return RestoreResult(sum(keys.values()), sum(expires.values()), placed, kept, f"{good}, and in place in {into}")


async def _placed(
    files: BackupFiles, plan: Placement, in_use: Callable[[], Awaitable[str]], progress: Step
) -> tuple[str, tuple[str, ...]]:
    await progress("place", f"the files are laid into {plan.layout.directory}")
    await files.stage(plan)
    try:
        await _refuse_use(in_use)  # It may have been started in the meantime.
        await progress("commit", "they take the place of the old ones")
        return await files.commit(plan)
    finally:
        await asyncio.shield(files.unstage(plan))


async def _refuse_use(in_use: Callable[[], Awaitable[str]]) -> None:
    problem = await in_use()
    if problem:
        raise AgentdError("restore-in-use", f"cannot restore: {problem}", hint="stop the server first")


def _places(into: str, info: BackupInfo, names: Mapping[str, str]) -> Layout:
    chosen = {**info.names, **{name: names[name] for name in NAMES if names.get(name)}}
    for name, value in chosen.items():
        if "/" in value or value in (".", ".."):
            raise AgentdError("restore-where", f'cannot restore: {name} is "{value}", which is no plain name')
    places = layout({"dir": into, **chosen})
    if places is None:
        raise AgentdError("usage", f'cannot restore into "{into}": not an absolute path', hint="use --into DIR")
    return places
