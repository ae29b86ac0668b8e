"""The server that runs with a redis.conf, asked, and whether its next start may have `appendonly yes`.

For `agentctl redis persist`. A start with `appendonly yes` and without a usable append-only file ignores the RDB and
begins empty, and its next clean stop overwrites the RDB: in doubt the answer is no.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentd.adapters.redis import RedisClient
from agentd.adapters.redis_files import LocalDataFiles
from agentd.core.aof_manifest import Manifest, parse_manifest
from agentd.core.redis_conf import Effective
from agentd.core.redis_layout import LAYOUT_NAMES, Layout, layout
from agentd.core.redis_policy import proof
from agentd.core.schema import Settings
from agentd.errors import AgentdError
from agentd.managers.redis.stores import stores
from agentd.ports_redis import Target
from agentd.stores import AofFiles, RedisState

ADDRESS_NAMES = ("port", "bind", "unixsocket")
_EVERYWHERE = ("*", "0.0.0.0", "localhost", "127.0.0.1", "::*")
_EMPTY = "the next start would ignore the RDB and begin empty"


@dataclass(frozen=True, slots=True)
class Server:
    """`state` and `running` are None when it was not asked; `words` says what is known of it."""

    words: str
    state: RedisState | None = None
    running: Mapping[str, str] | None = None
    """CONFIG GET of LAYOUT_NAMES."""
    answers: bool = True
    """False: nobody listens where it should."""


async def ask(settings: Settings, path: str, found: Effective, password: Callable[[], str] | None) -> Server:
    """The server that runs with the file at `path`: at the configured addresses, and at the one that the file gives."""
    own = _address(found)
    refusal = ""
    for target in _targets(settings, own, password):
        client = RedisClient(target)
        try:
            state = await client.state()
            if _same(state.config_file, path) and not _here(state.pid):
                return Server(f"what answers at {target.url} names this file, but is no process of this machine")
            if _same(state.config_file, path):
                return Server(_words(state, target.url), state, await _running(client))
        except AgentdError as error:
            if target.url == own and error.kind != "redis-unreachable":
                refusal = error.message
        finally:
            await client.close()
    if refusal:
        return Server(f"its server answers and cannot be asked: {refusal}")
    if not own:
        return Server("its server cannot be asked: the file gives no address without TLS")
    return Server(f"no server runs with this file: nobody answers at {own}, or it has another file", answers=False)


async def unsafe(files: LocalDataFiles, server: Server, found: Effective) -> str:
    """Why `appendonly yes` in the file would lose data at the next start; "" when it would not."""
    if server.state is None and server.answers:
        return f"{server.words}; whether its append-only file is on is not known, and if it is off {_EMPTY}"
    if server.state is not None and not server.state.aof_enabled:
        return f"the running server has its append-only file off, so {_EMPTY}"
    values = {name: found.values[name].value for name in LAYOUT_NAMES}
    moved = _moved(server.running, values)
    if moved:
        return moved
    places = layout(server.running if server.running is not None else values)
    if places is None:
        return f"where it keeps its data is not known (dir is {values['dir']}), so {_EMPTY} for all that is known"
    aof = await files.aof(places.aof, places.appendfilename)
    # Of a server that does not run, only the files are judged.
    state = server.state or RedisState(aof_enabled=True)
    missing = proof(state, rewrites_before=None, aof=aof, manifest=_manifest(aof))
    if missing:
        return f"the append-only file is not proven usable: {missing[0]}"
    return "" if server.state is not None else await _older(files, places, aof)


async def _older(files: LocalDataFiles, places: Layout, aof: AofFiles) -> str:
    """Without a server: the append-only file has to be what is newest on the disk."""
    if aof.problem:
        return f"it does not run, and {places.aof} cannot be looked at: {aof.problem}"
    written, saved = await files.mtime(places.manifest), await files.mtime(places.rdb)
    if written is None or (saved is not None and saved >= written):
        return (
            f"it does not run, and {places.rdb} is newer than the append-only file, which would win: start it as it is"
        )
    return ""


def _moved(running: Mapping[str, str] | None, values: Mapping[str, str]) -> str:
    """The next start would look elsewhere."""
    for name in LAYOUT_NAMES if running else ():
        now, then = (running or {}).get(name, ""), values[name]
        if name == "dir" and not then.startswith("/"):
            continue
        if now and now.rstrip("/") != then.rstrip("/"):
            return f'the next start would look elsewhere: {name} is "{then}" in the file, and "{now}" in the server'
    return ""


async def _running(client: RedisClient) -> Mapping[str, str] | None:
    try:
        return await client.config(LAYOUT_NAMES)
    except AgentdError:
        return None


def _manifest(aof: AofFiles) -> Manifest | None:
    try:
        return parse_manifest(aof.manifest) if aof.manifest is not None else None
    except ValueError:
        return None


def _targets(settings: Settings, own: str, password: Callable[[], str] | None) -> Iterator[Target]:
    """The file's own address comes last, without a password: who listens there is not the user's word."""
    seen = set()
    for store in stores(settings):
        target = Target(store.name, store.url, settings.redis.user, password)
        if target.local:
            seen.add(store.url)
            yield target
    if own and own not in seen:
        yield Target("redis", own)


def _address(found: Effective) -> str:
    said = {name: found.values[name].value for name in ADDRESS_NAMES if name in found.values}
    if said.get("unixsocket", "").startswith("/"):
        return f"unix://{said['unixsocket']}"
    port = said.get("port", "6379")
    if not port.isascii() or not port.isdigit() or port == "0":
        return ""
    hosts = [host.removeprefix("-") for host in said.get("bind", "").split()]
    host = "127.0.0.1" if not hosts or set(hosts) & set(_EVERYWHERE) else hosts[0]
    return f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}"


def _same(one: str, other: str) -> bool:
    return bool(one) and os.path.realpath(one) == os.path.realpath(other)


def _here(pid: int) -> bool:
    """In a container it has another pid than the one it says, and another file of that name."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(("redis", "valkey"))
    except OSError:
        return False


def _words(state: RedisState, url: str) -> str:
    aof = "on" if state.aof_enabled else "off"
    return f"{state.product} {state.version} runs with this file at {url}, its append-only file is {aof}"
