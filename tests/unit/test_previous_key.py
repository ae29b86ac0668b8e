"""The key before a rotation, taken beside the new one by the gateway's runtime."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.gateway_runtime.previous_key import PreviousKey, wrapped

OLD, NEW = "sk-old", "sk-new"


async def passed(headers: list[tuple[bytes, bytes]], kind: str = "http") -> list[tuple[bytes, bytes]]:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": kind, "headers": headers, "path": "/v1/models"}
    await PreviousKey(app, OLD, lambda: NEW)(scope, None, None)
    assert scope["headers"] is headers, "the server's own scope stays as it is"
    found: list[tuple[bytes, bytes]] = seen[0]["headers"]
    return found


@pytest.mark.parametrize(
    ("name", "value", "after"),
    [
        (b"authorization", b"Bearer sk-old", b"Bearer sk-new"),
        (b"Authorization", b"bearer  sk-old ", b"bearer sk-new"),
        (b"authorization", b"sk-old", b"sk-new"),
        (b"x-api-key", b"sk-old", b"sk-new"),
        (b"api-key", b"sk-old", b"sk-new"),
        (b"x-goog-api-key", b"sk-old", b"sk-new"),
        (b"x-litellm-api-key", b"Bearer sk-old", b"Bearer sk-new"),
        (b"authorization", b"Bearer sk-new", b"Bearer sk-new"),
        (b"authorization", b"Bearer sk-other", b"Bearer sk-other"),
        (b"authorization", b"Bearer sk-olde", b"Bearer sk-olde"),
        (b"authorization", b"", b""),
        (b"authorization", b"Basic sk-old", b"Basic sk-old"),
        (b"x-other", b"sk-old", b"sk-old"),
    ],
)
async def test_the_old_key_goes_on_as_the_new_one(name: bytes, value: bytes, after: bytes) -> None:
    assert await passed([(b"host", b"x"), (name, value)]) == [(b"host", b"x"), (name, after)]
    assert (await passed([(name, value)], "websocket"))[0][1] == after


async def test_a_start_up_is_let_through() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await PreviousKey(app, OLD, lambda: NEW)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


async def test_without_an_old_key_nothing_stands_between() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    assert wrapped(app, {}) is app
    assert wrapped(app, {"AGENTD_PREVIOUS_KEY": ""}) is app
    assert isinstance(wrapped(app, {"AGENTD_PREVIOUS_KEY": OLD}), PreviousKey)
