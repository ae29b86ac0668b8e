"""A backup brought back without a daemon: which directory it goes to, and that no server uses it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from agentd import paths
from agentd.adapters import redis_launch
from agentd.adapters.clock import SystemClock
from agentd.adapters.config_files import load
from agentd.adapters.kernel import LinuxKernel
from agentd.adapters.offline_systemd import unit_states
from agentd.adapters.redis import RedisClient
from agentd.adapters.redis_backups import LocalBackupFiles
from agentd.adapters.redis_scratch import LocalScratchServers
from agentd.adapters.redis_users import server_in
from agentd.core.redis_args import command_line
from agentd.core.redis_backup import NAMES, RECORD, from_json
from agentd.core.redis_conf import effective
from agentd.core.schema import Settings
from agentd.errors import AgentdError, BusError
from agentd.managers.redis.restore import Check, RestoreResult
from agentd.managers.redis.restore import restore as restored
from agentd.managers.redis.stores import Named, stores
from agentd.ports_redis import Target
from agentd.stores import ConfTree, Launch
from agentd.types import ActiveState, Scope

INTO = "name the data directory with --into DIR"
ANSWER = 3.0
"""Seconds to wait for a server that should not be there."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a backup goes, and whose it is."""

    directory: str
    names: Mapping[str, str] = field(default_factory=dict)
    executable: str = ""
    url: str = ""
    """Of the server; "" when it is not known."""
    start: str = ""
    """The command that starts it."""


def restore(
    backup: str, *, into: str, store: str, check: bool, progress: Callable[[str, str], None]
) -> tuple[RestoreResult, str]:
    """(what was done, the command that starts the server or ""). `into` "" is the data directory of the store; `store`
    "" the one that the backup names. Raises AgentdError, ConfigError."""
    return asyncio.run(_restore(backup, into, store, check, progress))


async def _restore(
    backup: str, into: str, store: str, check: bool, progress: Callable[[str, str], None]
) -> tuple[RestoreResult, str]:
    files = LocalBackupFiles()
    place = Place(into)
    if store or not (into or check):
        place = await _place(files, backup, into, store, check=check)

    async def told(step: str, detail: str) -> None:
        progress(step, detail)

    async def in_use() -> str:
        return await _in_use(place)

    beside = await asyncio.to_thread(_beside, backup)
    memory = LinuxKernel().memory_available
    done = await restored(
        Check(files, LocalScratchServers(), beside, place.executable, memory),
        backup,
        into=place.directory,
        names=place.names,
        clock=SystemClock(),
        check_only=check,
        in_use=in_use,
        progress=told,
    )
    return done, place.start


def _beside(backup: str) -> str:
    """Where a copy is cheapest: links need the same file system."""
    parent = os.path.dirname(backup)  # noqa: PTH120
    return parent if os.access(parent, os.W_OK | os.X_OK) else tempfile.gettempdir()


async def _place(files: LocalBackupFiles, backup: str, into: str, store: str, *, check: bool) -> Place:
    settings = await asyncio.to_thread(_settings)
    named = _chosen(settings, store or await _recorded(files, backup), asked=bool(store))
    if not named.unit:
        if into or check:
            return Place(into, url=named.url)
        raise AgentdError("restore-where", f"cannot tell where {named.name} keeps its data: it has no unit", hint=INTO)
    scope = Scope(settings.daemon.scope)
    options = "--user " if scope is Scope.USER else ""
    if not check:
        await _refuse_running(named.unit, scope, f"systemctl {options}stop {named.unit}")
    try:
        found = await _found(files, await _launch(named.unit, scope))
    except AgentdError:
        if not (into or check):
            raise
        found = Place(into)
    start = f"systemctl {options}start {named.unit}"
    return replace(found, directory=into or found.directory, url=named.url, start=start)


async def _refuse_running(unit: str, scope: Scope, stop: str) -> None:
    """What systemd does not tell is found out in other ways."""
    with suppress(BusError):
        state = (await asyncio.to_thread(unit_states, scope, [unit]))[unit].active_state
        if state not in (ActiveState.INACTIVE, ActiveState.FAILED, ActiveState.UNKNOWN):
            raise AgentdError("restore-in-use", f"cannot restore: {unit} is {state}", hint=f"first: {stop}")


def _settings() -> Settings:
    return load(paths.config_layers(), required=paths.config_override(), home=str(paths.home())).settings


async def _recorded(files: LocalBackupFiles, backup: str) -> str:
    path = f"{backup}/{RECORD}"
    text = await files.text(path)
    if text is None:
        raise AgentdError("backup-damaged", f"cannot use {backup}: it has no {RECORD}, so it is no backup")
    return from_json(text, path).store


def _chosen(settings: Settings, name: str, *, asked: bool) -> Named:
    known = {named.name: named for named in stores(settings)}
    if name in known:
        return known[name]
    there = ", ".join(known) or "none"
    if asked:
        raise AgentdError("store-not-found", f'no store "{name}" in the configuration', hint=f"there are: {there}")
    message = f'the backup is of "{name}", and the configuration has no such store'
    raise AgentdError("store-not-found", message, hint=f"{INTO}, or another store with --store ({there})")


async def _launch(unit: str, scope: Scope) -> Launch:
    launch = await redis_launch.with_arguments(redis_launch.Process(Launch(unit=unit, scope=scope.value)), 0)
    if launch.problem:
        raise AgentdError("restore-where", f"cannot tell where the data is: {launch.problem}", hint=INTO)
    return launch


async def _found(files: LocalBackupFiles, launch: Launch) -> Place:
    """From the unit's arguments and the file that they name."""
    file = command_line(launch.argv).file
    if file is not None and not file.startswith("/"):
        raise AgentdError("restore-where", f"cannot tell where {launch.unit} finds {file}", hint=INTO)
    tree = await files.configuration(file) if file else ConfTree()
    found = effective(tree, launch.argv, ("dir", *NAMES))
    if found.problems:
        raise AgentdError("restore-where", f"cannot tell where the data is: {'; '.join(found.problems)}", hint=INTO)
    values = {name: setting.value for name, setting in found.values.items()}
    directory = values.pop("dir", "")
    if not directory.startswith("/"):
        message = f'cannot tell where {launch.unit} keeps its data: its dir is "{directory}", which is relative'
        raise AgentdError("restore-where", message, hint=INTO)
    return Place(directory.rstrip("/") or "/", values, launch.argv[0])


async def _in_use(place: Place) -> str:
    """A sentence, or "". A server that lets nobody in is one, too."""
    if place.url:
        problem = await _answers(place)
        if problem:
            return problem
    return await asyncio.to_thread(server_in, place.directory)


async def _answers(place: Place) -> str:
    client = RedisClient(Target("", place.url), timeout=ANSWER)
    text = f"a server answers at {place.url}"
    try:
        await client.state()
        directory = (await client.config(["dir"])).get("dir", "")
    except AgentdError as error:
        return "" if error.kind == "redis-unreachable" else text
    finally:
        await client.close()
    if directory and not await asyncio.to_thread(_same, directory, place.directory):
        return ""
    return text


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return one == other
