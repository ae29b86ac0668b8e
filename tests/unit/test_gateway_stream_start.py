"""The start of a stream within the timeout of a try, on stand-ins for LiteLLM's router and its clients' transport."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agentd.gateway_runtime import stream_start
from agentd.gateway_runtime.stream_start import TRY, bound_router, bound_transport, install, limit

MOMENT, LONG = 0.02, 30.0


class TimedOut(Exception):
    def __init__(self, text: str, *, request: object) -> None:
        super().__init__(text)
        self.request = request


class Reply:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def aclose(self) -> None:
        self.closed.set()


def transport_class() -> Any:
    """Each stands alone: its method is replaced."""

    class Transport:
        def __init__(self) -> None:
            self.go = asyncio.Event()
            self.reached = asyncio.Event()
            self.gone = False
            self.stubborn = False
            self.reply = Reply()

        async def handle_async_request(self, request: object) -> Reply:
            self.reached.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.gone = True
                if not self.stubborn:
                    raise
            return self.reply

    bound_transport(Transport, TimedOut)
    return Transport


def router_class() -> Any:
    class Router:
        timeout = LONG

        def __init__(self, transport: Any, seconds: object) -> None:
            self.transport = transport
            self.deployment = {"litellm_params": {"timeout": seconds}}

        def _update_kwargs_with_deployment(self, deployment: Any, kwargs: Any, function_name: str = "") -> str:
            kwargs["timeout"] = LONG
            return function_name

        async def _acompletion(self, **kwargs: Any) -> Any:
            self._update_kwargs_with_deployment(deployment=self.deployment, kwargs=kwargs)
            return await self.transport.handle_async_request("question")

        async def _aembedding(self, **kwargs: Any) -> Any:
            self._update_kwargs_with_deployment(self.deployment, kwargs)
            return await self.transport.handle_async_request("question")

    bound_router(Router)
    return Router


@pytest.fixture
def transport() -> Any:
    return transport_class()()


async def test_a_stream_that_does_not_begin_is_a_timeout(transport: Any) -> None:
    with pytest.raises(TimedOut, match=r"no answer began within 0.02 s") as caught:
        await router_class()(transport, MOMENT)._acompletion(stream=True)
    await asyncio.sleep(0)
    assert caught.value.request == "question"
    assert transport.gone
    assert TRY.get() is None


async def test_a_stream_that_begins_is_left_alone(transport: Any) -> None:
    transport.go.set()
    assert await router_class()(transport, LONG)._acompletion(stream=True) is transport.reply


@pytest.mark.parametrize(("method", "stream"), [("_acompletion", False), ("_aembedding", True)])
async def test_others_are_waited_for_as_ever(transport: Any, method: str, stream: bool) -> None:
    work = asyncio.ensure_future(getattr(router_class()(transport, MOMENT), method)(stream=stream))
    done, _ = await asyncio.wait({work}, timeout=MOMENT * 4)
    assert not done
    transport.go.set()
    assert await work is transport.reply


async def test_a_shorter_timeout_of_the_client_wins(transport: Any) -> None:
    with pytest.raises(TimedOut, match=r"within 0.02 s"):
        await router_class()(transport, LONG)._acompletion(stream=True, timeout=MOMENT)


async def test_who_goes_takes_the_request_along(transport: Any) -> None:
    work = asyncio.ensure_future(router_class()(transport, LONG)._acompletion(stream=True))
    await transport.reached.wait()
    work.cancel()
    await asyncio.wait({work})
    assert work.cancelled()
    await asyncio.sleep(0)
    assert transport.gone


async def test_an_answer_that_comes_too_late_is_closed(transport: Any) -> None:
    transport.stubborn = True
    with pytest.raises(TimedOut):
        await router_class()(transport, MOMENT)._acompletion(stream=True)
    async with asyncio.timeout(5):
        await transport.reply.closed.wait()


async def test_what_outlives_a_try_is_not_bounded() -> None:
    """A task that logs it asks servers of its own."""
    limits: list[float | None] = []
    later: list[asyncio.Future[None]] = []
    begin = asyncio.Event()

    async def log() -> None:
        current = TRY.get()
        assert current is not None
        limits.append(current.limit)
        await begin.wait()
        limits.append(current.limit)

    class Logged:
        async def handle_async_request(self, request: object) -> None:
            later.append(asyncio.ensure_future(log()))
            await asyncio.sleep(0)

    bound_transport(Logged, TimedOut)
    await router_class()(Logged(), LONG)._acompletion(stream=True)
    begin.set()
    await later[0]
    assert limits == [LONG, None]


NAN, HUGE = float("nan"), 10**400


@pytest.mark.parametrize(
    ("params", "router", "client", "seconds"),
    [
        ({"timeout": 30}, {"timeout": 6000}, {}, 30),
        ({"timeout": "30"}, {}, {}, 30),
        ({"request_timeout": 7}, {"timeout": 5}, {}, 7),
        ({}, {"timeout": 5}, {}, 5),
        ({}, {"request_timeout": 9, "timeout": 5}, {}, 9),
        ({}, {"timeout": None}, {}, None),
        ({"timeout": 30}, {}, {"timeout": 3}, 3),
        ({"timeout": 30}, {}, {"timeout": "3"}, 3),
        ({"timeout": 30}, {}, {"request_timeout": 4}, 4),
        ({"timeout": 30}, {}, {"timeout": 300}, 30),
        ({}, {}, {"timeout": 3}, 3),
        *[({"timeout": 30}, {}, {"timeout": wrong}, 30) for wrong in (0, -1, True, "x", [1], NAN, HUGE)],
        ({"timeout": SimpleNamespace(read=1)}, {"timeout": 5}, {}, 5),
    ],
)
def test_the_limit(params: Any, router: Any, client: Any, seconds: float | None) -> None:
    assert limit(SimpleNamespace(**router), {"litellm_params": params}, client) == seconds


def test_a_litellm_without_these_names_is_left_alone_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Router:
        async def _acompletion(self) -> None: ...

    original = Router._acompletion
    litellm, httpx = ModuleType("litellm.router"), ModuleType("httpx")
    litellm.__dict__["Router"] = Router
    httpx.__dict__.update(ReadTimeout=TimedOut, AsyncHTTPTransport=type("AsyncHTTPTransport", (), {}))
    monkeypatch.setitem(sys.modules, "litellm", ModuleType("litellm"))
    monkeypatch.setitem(sys.modules, "litellm.router", litellm)
    monkeypatch.setitem(sys.modules, "httpx", httpx)
    said: list[str] = []
    install(said.append)
    assert Router._acompletion is original
    assert len(said) == 1
    for name in (stream_start.CHOSEN, "_atext_completion", "LiteLLMAiohttpTransport", "AsyncHTTPTransport"):
        assert name in said[0]
    assert "Router._acompletion" not in said[0]
