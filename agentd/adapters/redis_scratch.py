"""The ScratchServers port: a real server on a copy of the files, on a unix socket that nobody else reaches."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from agentd.adapters.conversation import BrokenOff, Conversation, TooLarge, connected_unix
from agentd.adapters.redis_scratch_place import config_text, find_program, private_folder, remove
from agentd.adapters.redis_scratch_process import ScratchProcess
from agentd.errors import AgentdError
from agentd.stores import ScratchResult

FAREWELL = 5.0
"""Seconds to end by itself; then it is killed, which costs nothing, since it has nothing to save."""
_LARGEST = 1024 * 1024


class LocalScratchServers:
    def __init__(self, executable: str = "") -> None:
        """`executable`: a name or a path; "" for redis-server, else valkey-server."""
        self._executable = executable

    async def load(
        self,
        directory: str,
        *,
        appendonly: bool,
        executable: str = "",
        config: Mapping[str, str] | None = None,
        digest: bool = False,
        timeout: float = 600.0,
    ) -> ScratchResult:
        """Of `config` only what decides how the files are read is taken over (see LOADING); the rest, a password above
        all, is not wanted here. A cancelled call has killed the server when it returns."""
        program = await asyncio.to_thread(find_program, executable or self._executable)
        servers: list[ScratchProcess] = []
        try:
            async with asyncio.timeout(timeout), _started(program, servers) as (server, folder):
                socket = str(folder / "s")
                await server.begin(config_text(directory, socket, appendonly, config or {}, debug=digest))
                await server.ready(directory)
                return await _asked(server, socket, digest=digest)
        except TimeoutError:
            raise AgentdError(
                "drill-timeout",
                f"cannot load {directory}: {program} was not done within {timeout:g} s",
                hint=f"its last words: {words}" if servers and (words := servers[0].words) else "",
            ) from None


@asynccontextmanager
async def _started(program: str, servers: list[ScratchProcess]) -> AsyncIterator[tuple[ScratchProcess, Path]]:
    """Killed and its directory removed at the end, however that comes. `servers` gets it, for its last words."""
    folder = await asyncio.to_thread(private_folder)
    try:
        server = await ScratchProcess.start(program, folder)
        servers.append(server)
        try:
            yield server, folder
        finally:
            await server.end()
    finally:
        await asyncio.shield(asyncio.to_thread(remove, folder))


async def _asked(server: ScratchProcess, socket: str, *, digest: bool) -> ScratchResult:
    seconds = time.monotonic() - server.started
    try:
        async with connected_unix(socket) as connection:
            talk = Conversation(connection)
            keys, expires = parse_keyspace(await _command(talk, "INFO", "keyspace"))
            found = await _command(talk, "DEBUG", "DIGEST") if digest else ""
            log = server.log
            await _farewell(server, talk)
    except (OSError, BrokenOff, TooLarge) as error:
        raise server.failed(f"it does not answer ({str(error).lower()})") from None
    except _Refused as error:
        raise server.failed(f"it answers {error}") from None
    return ScratchResult(keys, expires, found, seconds, log)


async def _farewell(server: ScratchProcess, talk: Conversation) -> None:
    try:
        async with asyncio.timeout(FAREWELL):
            await talk.say(_encoded("SHUTDOWN", "NOSAVE"))
            await server.gone()
    except (OSError, TimeoutError):
        return  # It is killed.


class _Refused(Exception):
    """The server's own words."""


async def _command(talk: Conversation, *words: str) -> str:
    """A simple or a bulk string. Raises _Refused, BrokenOff, TooLarge, OSError."""
    await talk.say(_encoded(*words))
    line = (await talk.until(b"\r\n", _LARGEST)).decode(errors="replace")
    if line.startswith("+"):
        return line[1:]
    if line.startswith("$") and line[1:].isdigit():
        return (await talk.exactly(int(line[1:]) + 2)).decode(errors="replace")[:-2]
    raise _Refused(line.removeprefix("-"))


def _encoded(*words: str) -> bytes:
    encoded = [os.fsencode(word) for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def parse_keyspace(text: str) -> tuple[dict[int, int], dict[int, int]]:
    """ "db0:keys=3,expires=1,avg_ttl=0" -> ({0: 3}, {0: 1})."""
    keys: dict[int, int] = {}
    expires: dict[int, int] = {}
    for line in text.splitlines():
        name, colon, values = line.partition(":")
        if colon and name.startswith("db") and name[2:].isdigit():
            fields = dict(pair.split("=", 1) for pair in values.split(",") if "=" in pair)
            keys[int(name[2:])] = int(fields.get("keys", 0))
            expires[int(name[2:])] = int(fields.get("expires", 0))
    return keys, expires
