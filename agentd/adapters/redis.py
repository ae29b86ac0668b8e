"""The RedisAdmin port: what agentd asks and tells a Redis or Valkey server."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentd.adapters import redis_ping
from agentd.adapters.redis_words import NOT_REDIS, Trouble, too_slow, without
from agentd.core.redact import without_credentials
from agentd.core.redis_info import parse_info
from agentd.errors import AgentdError
from agentd.ports_redis import Target
from agentd.stores import RedisState

if TYPE_CHECKING:
    from agentd.adapters.redis_wire import Line

SECTIONS = ("server", "clients", "memory", "persistence", "stats", "replication", "keyspace")
"""Of INFO, in one question; before Redis 7 there was no way to ask for more than one."""

CLOSED = "this connection was closed by agentd"

_T = TypeVar("_T")


class RedisClient:
    """One server, over one connection that is opened when it is needed and again after it broke; no call is repeated.

    Calls at the same time wait for each other; `timeout` seconds hold for each of them, that wait included. It belongs
    to the loop that it is used in.
    """

    def __init__(self, target: Target, *, timeout: float = 5.0) -> None:
        self._target = target
        self._timeout = timeout
        self._shown = without_credentials(target.url)
        self._lock = asyncio.Lock()
        self._wire: Any = None  # the module with redis-py, as soon as it is needed
        self._line: Line | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<RedisClient {self._shown}>"

    async def state(self) -> RedisState:
        return await self._call("INFO", self._state)

    async def config(self, names: Sequence[str]) -> Mapping[str, str]:
        if not names:
            return {}
        wanted = tuple(dict.fromkeys(names))
        return await self._call("CONFIG GET", lambda line: self._config(line, wanted))

    async def set_config(self, values: Mapping[str, str]) -> None:
        if values:
            words = [word for pair in values.items() for word in pair]
            await self._order("CONFIG", "SET", *words)

    async def rewrite_config(self) -> None:
        await self._order("CONFIG", "REWRITE")

    async def save(self) -> None:
        await self._order("BGSAVE")

    async def rewrite_aof(self) -> None:
        await self._order("BGREWRITEAOF")

    async def close(self) -> None:
        """At once; a call that runs ends with "redis-unreachable", and so does every later one."""
        self._closed = True
        self._drop()
        await asyncio.sleep(0)  # The transport gives its socket back in the loop's next turn.

    async def _order(self, *command: str) -> None:
        name = " ".join(command[:2]) if command[0] == "CONFIG" else command[0]
        await self._call(name, lambda line: self._done(line, command))

    async def _done(self, line: Line, command: Sequence[str]) -> None:
        answer = await line.ask(*command)
        if answer != "OK" if command[0] == "CONFIG" else not isinstance(answer, str):
            raise self._foreign(line)

    async def _state(self, line: Line) -> RedisState:
        try:
            text = await line.ask("INFO", *SECTIONS)
        except Trouble as trouble:
            if "syntax error" not in trouble.reason:
                raise
            text = await line.ask("INFO")
        if not isinstance(text, str) or "redis_version:" not in text:
            raise self._foreign(line)
        return parse_info(text)

    async def _config(self, line: Line, names: Sequence[str]) -> dict[str, str]:
        try:
            found = self._pairs(line, await line.ask("CONFIG", "GET", *names))
        except Trouble as trouble:
            if len(names) == 1 or "wrong number of arguments" not in trouble.reason:
                raise
            found = {}  # before Redis 7: one at a time
            for name in names:
                found |= self._pairs(line, await line.ask("CONFIG", "GET", name))
        return {name: found[name] for name in names if name in found}  # a name with a "*" would have brought more

    def _pairs(self, line: Line, answer: object) -> dict[str, str]:
        if not isinstance(answer, list) or len(answer) % 2 or not all(isinstance(word, str) for word in answer):
            raise self._foreign(line)
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def _foreign(self, line: Line) -> Trouble:
        """An answer that Redis would not give."""
        line.drop()
        return Trouble("redis-not-redis", NOT_REDIS)

    async def _call(self, command: str, work: Callable[[Line], Awaitable[_T]]) -> _T:
        """Raises AgentdError, outside of every frame that has seen the password."""
        if self._wire is None:
            self._wire = await asyncio.to_thread(importlib.import_module, "agentd.adapters.redis_wire")
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    async with self._lock:
                        return await work(await self._connected())
                except Trouble as trouble:
                    problem = await self._explained(trouble, command)
        except TimeoutError:
            problem = too_slow(self._timeout).told(self._shown, command)
        raise problem

    async def _connected(self) -> Line:
        """Raises Trouble, and AgentdError of the password and of a server that is another one."""
        if self._line is None or not self._line.usable:
            self._drop()
            if not self._closed:
                self._line = await self._opened()
        if self._closed or self._line is None:
            self._drop()
            raise Trouble("redis-unreachable", CLOSED)
        return self._line

    async def _opened(self) -> Line:
        where = redis_ping.address(self._target.url)
        if where is None:
            raise Trouble("redis-unreachable", "that is neither redis://HOST:PORT nor unix:///PATH")
        source = self._target.password
        password = await asyncio.to_thread(source) if source is not None else None
        line: Line = await self._wire.Line.open(where, self._target.user, password)
        run = self._target.run_id
        if run and (await self._state(line)).run_id != run:
            line.drop()
            raise AgentdError("redis-restarted", f"{self._shown} was started anew meanwhile; nothing is done to it")
        return line

    def _drop(self) -> None:
        if self._line is not None:
            self._line.drop()
            self._line = None

    async def _explained(self, trouble: Trouble, command: str) -> AgentdError:
        if self._closed:
            trouble = Trouble("redis-unreachable", CLOSED)
        if not trouble.quoted or self._target.password is None:
            return trouble.told(self._shown, command)
        # The password is kept nowhere: it is read again to see that the server's words do not hold it.
        try:
            secret = await asyncio.to_thread(self._target.password)
        except AgentdError:
            return trouble.told(self._shown, command, words="it answers with an error")
        return trouble.told(self._shown, command, words=without(secret, trouble.reason))
