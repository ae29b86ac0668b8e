"""Checks of a service from outside: HTTP, TCP, Redis PING, a command. Libraries are imported when first needed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json as json_library
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentd.adapters import exec_probe, plain_http, redis_ping
from agentd.adapters.conversation import BrokenOff, Conversation, TooLarge, connected, connected_unix
from agentd.core.redact import redact, without_credentials
from agentd.errors import AgentdError
from agentd.ports import HttpAnswer

if TYPE_CHECKING:
    import aiohttp

LARGEST_BODY = 1024 * 1024


class NetworkProber:
    """The Prober port. `close()` when done. No proxy of the environment is used and no redirect followed: a probe asks
    the service itself, and a key goes nowhere else."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def http(
        self,
        url: str,
        *,
        timeout: float,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        json: object | None = None,
    ) -> HttpAnswer:
        shown, began = without_credentials(url), time.monotonic()
        where = plain_http.target(url)
        try:
            async with asyncio.timeout(timeout):
                if where is not None:
                    body = None if json is None else _json(json)
                    status, content = await _plain(where, plain_http.request(where, method, headers or {}, body), shown)
                else:
                    status, content = await self._library(url, method, headers, json, shown)
                return HttpAnswer(status, content, time.monotonic() - began)
        except TimeoutError:
            problem = AgentdError("probe-timeout", f"cannot read {shown}: no answer within {timeout:g} s")
        except TooLarge:
            text = f"cannot read {shown}: the answer is larger than {LARGEST_BODY} bytes"
            problem = AgentdError("probe-failed", text)
        except (OSError, ValueError, OverflowError) as error:  # InvalidURL is a ValueError
            problem = AgentdError("probe-failed", f"cannot connect to {shown}: {_reason(error)}")
        raise problem

    async def _library(
        self, url: str, method: str, headers: Mapping[str, str] | None, json: object | None, shown: str
    ) -> tuple[int, bytes]:
        """By aiohttp, which knows TLS."""
        session = await self._http_session()
        try:
            async with session.request(method, url, headers=headers, json=json, allow_redirects=False) as response:
                return response.status, await _limited(response)
        except (OSError, ValueError):
            raise
        except _client_error() as error:
            raise AgentdError("probe-failed", f"cannot read {shown}: {_reason(error)}") from None

    async def tcp(self, host: str, port: int, *, timeout: float) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            async with asyncio.timeout(timeout), connected(host, port):
                pass
        except TimeoutError:
            problem = AgentdError("probe-timeout", f"cannot connect to {where}: no answer within {timeout:g} s")
        except (OSError, OverflowError) as error:
            problem = AgentdError("probe-failed", f"cannot connect to {where}: {_reason(error)}")
        else:
            return
        raise problem

    async def redis_ping(self, url: str, *, timeout: float) -> None:
        shown = without_credentials(url)
        where = redis_ping.address(url)
        try:
            async with asyncio.timeout(timeout):
                if where is None:
                    await _library_ping(url, shown)
                    return
                async with where.connect() as connection:
                    await redis_ping.ping(Conversation(connection), where)
                    return
        except TimeoutError:
            problem = AgentdError("probe-timeout", f"cannot ping {shown}: no answer within {timeout:g} s")
        except (OSError, OverflowError) as error:
            problem = AgentdError("probe-failed", f"cannot ping {shown}: {_reason(error)}")
        except (redis_ping.NotReady, BrokenOff) as error:
            problem = AgentdError("probe-failed", f"cannot ping {shown}: {redact(str(error))}")
        raise problem

    async def exec(self, argv: Sequence[str], *, timeout: float) -> None:
        """The command must exit with 0; on a timeout its whole process group is killed."""
        await exec_probe.run(argv, timeout)

    async def _http_session(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                aiohttp = await _module("aiohttp")
                self._session = aiohttp.ClientSession(
                    # A fresh connection each time: one kept open would answer for a server that takes no new ones.
                    connector=aiohttp.TCPConnector(force_close=True, limit=0),
                    timeout=aiohttp.ClientTimeout(total=None),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                )
        assert self._session is not None
        return self._session


async def _plain(where: plain_http.Target, request: bytes, shown: str) -> tuple[int, bytes]:
    opening = connected_unix(where.socket) if where.socket else connected(where.host, where.port)
    async with opening as connection:
        talk = Conversation(connection)
        try:
            await talk.say(request)
            return await plain_http.answer(talk, LARGEST_BODY)
        except plain_http.NotHttp:
            raise AgentdError("probe-failed", f"cannot read {shown}: the answer is not HTTP") from None
        except (OSError, BrokenOff) as error:
            raise AgentdError("probe-failed", f"cannot read {shown}: {_reason(error)}") from None


async def _library_ping(url: str, shown: str) -> None:
    """By redis-py, which knows TLS and every option of its URLs."""
    redis: Any = await _module("redis.asyncio")
    retry = await _module("redis.asyncio.retry")
    backoff = await _module("redis.backoff")
    try:
        client = redis.Redis.from_url(url, retry=retry.Retry(backoff.NoBackoff(), 0))
    except ValueError as error:
        raise AgentdError("probe-failed", f"cannot ping {shown}: {redact(str(error))}") from None
    try:
        await client.ping()
    except redis.RedisError as error:
        raise AgentdError("probe-failed", f"cannot ping {shown}: {_redis_reason(error)}") from None
    finally:
        with contextlib.suppress(OSError, redis.RedisError):
            await client.aclose()


def _json(value: object) -> bytes:
    return json_library.dumps(value, separators=(",", ":")).encode()


async def _module(name: str) -> Any:
    """Import in a thread: aiohttp and redis take 100 ms that the loop has better uses for."""
    return await asyncio.to_thread(importlib.import_module, name)


def _client_error() -> type[Exception]:
    import aiohttp

    return aiohttp.ClientError


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise TooLarge
    return bytes(body)


_BY_CLASS = {
    "ServerDisconnectedError": "the server closed the connection without an answer",
    "ClientResponseError": "the answer is not HTTP",
    "ClientPayloadError": "the answer broke off",
    "InvalidURL": "not a valid URL",
    "InvalidUrlClientError": "not a valid URL",
    "NonHttpUrlClientError": "not a valid URL",
    "OverflowError": "not a valid port",
}
"""By name, since the libraries are not imported for it."""


def _reason(error: BaseException) -> str:
    """The system's word for it, without the class names and addresses that libraries put around it."""
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, socket.gaierror):
        return "the host name is unknown"
    number = getattr(inner, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    if "Connect call failed" in str(inner):  # several addresses, each with its own error
        return "connection refused"
    name = type(inner).__name__
    return _BY_CLASS.get(name) or redact(str(inner)) or name


def _redis_reason(error: BaseException) -> str:
    name = type(error).__name__
    known = {
        "AuthenticationError": "wrong or missing password",
        "BusyLoadingError": "it is still loading its data",
        "InvalidResponse": "the answer is not Redis's",
    }
    if name in known:
        return known[name]
    cause = error.__context__
    return _reason(cause) if isinstance(cause, OSError) else redact(str(error)).lower() or name
