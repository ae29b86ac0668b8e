"""What handlers find in the application, and how they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from agentd.api.operations import Operations
from agentd.api.sse import Streams
from agentd.core.redact import redact
from agentd.wire import Json, encode, plain

OPS: web.AppKey[Operations] = web.AppKey("ops")
DESCRIPTION: web.AppKey[Callable[[], Json]] = web.AppKey("description")
"""Makes the OpenAPI description; set by the server, since it is made from the table that names these handlers."""
STREAMS = web.AppKey("streams", Streams)

MAX_BODY = 64 * 1024
LIMITS: Mapping[str, int] = {"changes": 1000, "events": 10000}


def reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """JSON; a password inside a URL never leaves."""
    body = encode(without_passwords(plain(value)))
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def without_passwords(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value) if "://" in value else value
    if isinstance(value, dict):
        return {k: without_passwords(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_passwords(v) for v in value]
    return value
