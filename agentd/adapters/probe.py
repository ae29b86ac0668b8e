"""Checks of a service from outside: HTTP, TCP, Redis PING, a command. Libraries are imported when first needed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from agentd.core.redact import redact, without_credentials
from agentd.errors import AgentdError
from agentd.ports import HttpAnswer

if TYPE_CHECKING:
    import aiohttp

LARGEST_BODY = 1024 * 1024
LARGEST_COMPLAINT = 4096
OWN_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What systemd told us and nobody else."""


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
        session = await self._http_session()
        shown, began = without_credentials(url), time.monotonic()
        try:
            async with (
                asyncio.timeout(timeout),
                session.request(method, url, headers=headers, json=json, allow_redirects=False) as response,
            ):
                body = await _limited(response, shown)
                return HttpAnswer(response.status, body, time.monotonic() - began)
        except TimeoutError:
            problem = AgentdError("probe-timeout", f"cannot read {shown}: no answer within {timeout:g} s")
        except (OSError, ValueError) as error:  # ClientConnectorError is an OSError, InvalidURL a ValueError
            problem = AgentdError("probe-failed", f"cannot connect to {shown}: {_reason(error)}")
        except _client_error() as error:
            problem = AgentdError("probe-failed", f"cannot read {shown}: {_reason(error)}")
        raise problem

    async def tcp(self, host: str, port: int, *, timeout: float) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            async with asyncio.timeout(timeout):
                await _connect(host, port)
        except TimeoutError:
            problem = AgentdError("probe-timeout", f"cannot connect to {where}: no answer within {timeout:g} s")
        except (OSError, OverflowError) as error:
            problem = AgentdError("probe-failed", f"cannot connect to {where}: {_reason(error)}")
        else:
            return
        raise problem

    async def redis_ping(self, url: str, *, timeout: float) -> None:
        redis: Any = await _module("redis.asyncio")
        retry = await _module("redis.asyncio.retry")
        backoff = await _module("redis.backoff")
        shown = without_credentials(url)
        try:
            client = redis.Redis.from_url(url, retry=retry.Retry(backoff.NoBackoff(), 0))
        except ValueError as error:
            raise AgentdError("probe-failed", f"cannot ping {shown}: {redact(str(error))}") from None
        try:
            async with asyncio.timeout(timeout):
                await client.ping()
        except TimeoutError:
            problem = AgentdError("probe-timeout", f"cannot ping {shown}: no answer within {timeout:g} s")
        except (OSError, redis.RedisError) as error:
            problem = AgentdError("probe-failed", f"cannot ping {shown}: {_redis_reason(error)}")
        else:
            return
        finally:
            with contextlib.suppress(OSError, redis.RedisError):
                await client.aclose()
        raise problem

    async def exec(self, argv: Sequence[str], *, timeout: float) -> None:
        """The command must exit with 0; on a timeout its whole process group is killed."""
        complaint = os.memfd_create("probe", os.MFD_CLOEXEC)
        try:
            status = await _run(argv, timeout, complaint)
            if status != 0:
                raise AgentdError("probe-failed", f"{argv[0]} {_ending(status)}{_last_line(complaint)}")
        finally:
            os.close(complaint)

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


async def _module(name: str) -> Any:
    """Import in a thread: aiohttp and redis take 100 ms that the loop has better uses for."""
    return await asyncio.to_thread(importlib.import_module, name)


def _client_error() -> type[Exception]:
    import aiohttp

    return aiohttp.ClientError


async def _limited(response: aiohttp.ClientResponse, shown: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise AgentdError("probe-failed", f"cannot read {shown}: the answer is larger than {LARGEST_BODY} bytes")
    return bytes(body)


async def _connect(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    try:
        version = ip_address(host).version
        targets = [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
    except ValueError:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        targets = [(family, address[:2]) for family, _, _, _, address in found]  # type: ignore[misc]
    failure: OSError | None = None
    for family, address in targets:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as connection:
            try:
                await loop.sock_connect(connection, address)
                return
            except OSError as error:
                failure = error
    raise failure or OSError(errno.EADDRNOTAVAIL, "no address")


async def _run(argv: Sequence[str], timeout: float, complaint: int) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise AgentdError("probe-failed", f"cannot run {argv[0]}: {_reason(error)}") from None
    try:
        async with asyncio.timeout(timeout):
            return await process.wait()
    except TimeoutError:
        raise AgentdError("probe-timeout", f"cannot wait for {argv[0]}: still running after {timeout:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
    return f"was killed by {name}"


def _last_line(complaint: int) -> str:
    size = os.fstat(complaint).st_size
    text = os.pread(complaint, LARGEST_COMPLAINT, max(0, size - LARGEST_COMPLAINT)).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {redact(lines[-1][:200])}" if lines else ""


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
