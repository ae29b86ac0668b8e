"""The key before a rotation, accepted beside the new one as long as the environment holds it (ASGI).

LiteLLM knows one master key. A client that still sends the one before would be refused from the moment at which a
restarted gateway reads the new one; here its request goes on as if it had sent the new one.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

VARIABLE = "AGENTD_PREVIOUS_KEY"
HEADERS = (b"authorization", b"x-litellm-api-key", b"x-api-key", b"api-key", b"x-goog-api-key")
"""Where LiteLLM takes a key from."""

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def master_key() -> str:
    """The key that LiteLLM checks against, as it read it at its start."""
    return str(import_module("litellm.proxy.proxy_server").master_key or "")


class PreviousKey:
    """`current`: asked at each request that carries the previous key, since LiteLLM reads its config after this is
    made."""

    def __init__(self, app: App, previous: str, current: Callable[[], str] = master_key) -> None:
        self._app = app
        self._previous = previous.encode("utf-8", "surrogateescape")
        self._current = current

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = self._with_current(scope)
        await self._app(scope, receive, send)

    def _with_current(self, scope: Scope) -> Scope:
        headers = list(scope["headers"])
        changed = False
        for index, (name, value) in enumerate(headers):
            if name.lower() in HEADERS:
                scheme, key = split(value)
                if hmac.compare_digest(key, self._previous):
                    headers[index] = (name, scheme + self._current().encode("utf-8", "surrogateescape"))
                    changed = True
        return {**scope, "headers": headers} if changed else scope


def split(value: bytes) -> tuple[bytes, bytes]:
    """("Bearer ", key); (b"", key) for a key alone."""
    scheme, blank, key = value.partition(b" ")
    return (scheme + blank, key.strip()) if blank and scheme.lower() == b"bearer" else (b"", value.strip())


def wrapped(app: App, environ: MutableMapping[str, str] = os.environ) -> App:
    """The app that also takes the previous key; the app itself where there is none."""
    previous = environ.get(VARIABLE, "")
    return PreviousKey(app, previous) if previous else app
