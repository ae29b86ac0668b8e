"""A running LiteLLM over HTTP, by its port or by its control socket: is it alive, which models, which keys it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from agentd.adapters import plain_http
from agentd.adapters.conversation import BrokenOff, Conversation, TooLarge, connected, connected_unix
from agentd.core.redact import redact
from agentd.errors import AgentdError
from agentd.ports_gateway import Endpoint, ProxyState

ALIVE, MODELS, STATE, METRICS = "/health/liveliness", "/v1/models", "/agentd/state", "/metrics/"
"""Never /health: it calls every model."""
LARGEST = 8 * 1024 * 1024


class LitellmHttp:
    """The GatewayProxy port. Each question has a connection of its own, so that none speaks for an earlier process."""

    async def look(self, endpoint: Endpoint, key: str, *, timeout: float, keyless: bool = True) -> ProxyState:
        """Without `keyless` nothing is asked without a key, and `open_status` is 0: LiteLLM logs a whole traceback for
        each such question."""
        try:
            async with asyncio.timeout(timeout):
                return await self._look(endpoint, key, keyless)
        except TimeoutError:
            return ProxyState(False, error=f"no answer within {timeout:g} s")
        except AgentdError as error:
            return ProxyState(False, error=error.message)

    async def metrics(self, endpoint: Endpoint, key: str, *, timeout: float) -> str:
        try:
            async with asyncio.timeout(timeout):
                status, body = await _ask(endpoint, METRICS, key)
        except TimeoutError:
            raise AgentdError(
                "probe-failed", f"cannot read the metrics of {_name(endpoint)}: no answer within {timeout:g} s"
            ) from None
        return body.decode("utf-8", "replace") if status == 200 else ""

    async def _look(self, endpoint: Endpoint, key: str, keyless: bool) -> ProxyState:
        alive, _ = await _ask(endpoint, ALIVE)
        if alive != 200:
            return ProxyState(False, error=f"{ALIVE} answered {alive}")
        opened, shown = await _ask(endpoint, MODELS) if keyless else (0, b"")
        status, body = await _ask(endpoint, MODELS, key) if key else (0, b"")
        if status != 200 and opened == 200:
            body = shown
        told = await self._told(endpoint) if endpoint.socket else {}
        return ProxyState(
            True,
            models=_models(body) if 200 in (status, opened) else (),
            key_status=status,
            open_status=opened,
            digest=str(told.get("digest") or ""),
            pid=_number(told.get("pid")),
            shared=told.get("shared") is True,
            version=str(told.get("version") or ""),
        )

    async def _told(self, endpoint: Endpoint) -> Mapping[str, Any]:
        """By our own runtime in the process; {} when there is none."""
        status, body = await _ask(endpoint, STATE)
        with contextlib.suppress(ValueError):
            found = json.loads(body) if status == 200 else None
            if isinstance(found, dict):
                return found
        return {}


async def _ask(endpoint: Endpoint, path: str, key: str = "") -> tuple[int, bytes]:
    """Status and body. Raises AgentdError("probe-failed"); the caller sets the deadline."""
    where = plain_http.target(endpoint.url.rstrip("/") + path)
    if where is None:
        raise AgentdError("probe-failed", f"cannot ask {_name(endpoint)}: only plain http:// addresses can be asked")
    try:
        request = plain_http.request(where, "GET", {"Authorization": f"Bearer {key}"} if key else {}, None)
        async with _connected(endpoint, where) as connection:
            talk = Conversation(connection)
            await talk.say(request)
            return await plain_http.answer(talk, LARGEST)
    except plain_http.NotHttp:
        reason = "the answer is not HTTP"
    except TooLarge:
        reason = f"the answer is larger than {LARGEST} bytes"
    except BrokenOff as error:
        reason = str(error)
    except ValueError:  # Its text may hold the key.
        reason = "the key has characters that cannot be sent"
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else redact(str(error))
    raise AgentdError("probe-failed", f"cannot ask {_name(endpoint)}: {reason}")


@contextlib.asynccontextmanager
async def _connected(endpoint: Endpoint, where: plain_http.Target) -> AsyncIterator[socket.socket]:
    connecting = connected_unix(endpoint.socket) if endpoint.socket else connected(where.host, where.port)
    async with connecting as connection:
        yield connection


def _models(body: bytes) -> tuple[str, ...]:
    try:
        found = json.loads(body)["data"]
        return tuple(sorted({str(item["id"]) for item in found}))
    except (ValueError, TypeError, KeyError):
        return ()


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _name(endpoint: Endpoint) -> str:
    return endpoint.socket or endpoint.url
