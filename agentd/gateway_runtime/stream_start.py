"""A stream begins within the timeout of a try, or it is a failed try: retries, the breaker and fallbacks see it so.

LiteLLM holds a streamed request by its limit of silence alone, so that a server that takes requests and says nothing is
waited for so long at each try. Here the headers of its answer are waited for no longer than a whole answer would be;
what comes after them is held by the silence limit.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from . import ending

TRIES = ("_acompletion", "_atext_completion", "_ageneric_api_call_with_fallbacks_helper")
"""Methods of LiteLLM's router: one try at one deployment, of chats, of completions, of everything else."""
CHOSEN = "_update_kwargs_with_deployment"
"""Called within a try once its deployment is known."""
TRANSPORTS = (
    ("litellm.llms.custom_httpx.aiohttp_transport", "LiteLLMAiohttpTransport"),
    ("httpx", "AsyncHTTPTransport"),
)
SEND = "handle_async_request"
"""Returns when the headers are there."""


class Try:
    """`limit`: seconds; None: not a stream, or not in the hands of a deployment."""

    def __init__(self) -> None:
        self.limit: float | None = None


TRY: ContextVar[Try | None] = ContextVar("agentd_try", default=None)


def install(say: Callable[[str], None] = ending.say) -> None:
    """Before LiteLLM serves. What this version does not have is said, and left alone."""
    router = _named("litellm.router", "Router")
    timed_out = _named("httpx", "ReadTimeout")
    known = {name: _named(module, name) for module, name in TRANSPORTS}
    transports = [one for one in known.values() if hasattr(one, SEND)]
    missing = [f"Router.{name}" for name in (CHOSEN, *TRIES) if not hasattr(router, name)]
    missing += [name for name, one in known.items() if one not in transports]
    if hasattr(router, CHOSEN) and transports and timed_out is not None:
        bound_router(router)
        for transport in transports:
            bound_transport(transport, timed_out)
    if missing:
        words = ", ".join(missing)
        say(f"this LiteLLM has no {words}: streams may begin later than the timeout of a try, within the silence limit")


def _named(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def bound_router(router: Any) -> None:
    """`router`: the class."""
    chosen = getattr(router, CHOSEN)

    @functools.wraps(chosen)
    def choosing(self: Any, deployment: Any, kwargs: Any, *args: Any, **more: Any) -> Any:
        current = TRY.get()
        if current is not None:
            # Before: LiteLLM puts its own timeout in the place of the client's.
            current.limit = limit(self, deployment, kwargs) if kwargs.get("stream") else None
        return chosen(self, deployment, kwargs, *args, **more)

    setattr(router, CHOSEN, choosing)
    for name in TRIES:
        if hasattr(router, name):
            setattr(router, name, _trying(getattr(router, name)))


def _trying(original: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(original)
    async def trying(*args: Any, **kwargs: Any) -> Any:
        current = Try()
        token = TRY.set(current)
        try:
            return await original(*args, **kwargs)
        finally:
            TRY.reset(token)
            current.limit = None  # for tasks that outlive the try: those that log it

    return trying


def limit(router: Any, deployment: Any, kwargs: Any) -> float | None:
    """As LiteLLM finds it for an answer that is no stream; but a client's can only make it shorter."""
    params = deployment.get("litellm_params") or {}
    routers = (getattr(router, "request_timeout", None), getattr(router, "timeout", None))
    usual = (params.get("timeout"), params.get("request_timeout"), *routers)
    own = next((seconds for value in usual if (seconds := _seconds(value)) is not None), None)
    clients = (_seconds(kwargs.get("timeout")), _seconds(kwargs.get("request_timeout")))
    return min((seconds for seconds in (own, *clients) if seconds is not None), default=None)


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None  # None for a NaN too


def bound_transport(transport: Any, timed_out: Callable[..., BaseException]) -> None:
    """`transport`: the class. `timed_out`: httpx.ReadTimeout, which LiteLLM and its clients take for a timeout."""
    send = getattr(transport, SEND)

    @functools.wraps(send)
    async def sending(self: Any, request: Any) -> Any:
        current = TRY.get()
        if current is None or current.limit is None:
            return await send(self, request)
        seconds = current.limit
        work = asyncio.ensure_future(send(self, request))
        try:
            await asyncio.wait({work}, timeout=seconds)
            if work.done():
                return work.result()
        except asyncio.CancelledError:
            _leave(work)
            raise
        _leave(work)
        raise timed_out(f"no answer began within {seconds:g} s", request=request)

    setattr(transport, SEND, sending)


_closing: set[asyncio.Future[Any]] = set()


def _leave(work: asyncio.Future[Any]) -> None:
    work.cancel()
    work.add_done_callback(_left)


def _left(work: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more: an answer that came all the same gives its connection back."""
    if work.cancelled() or work.exception() is not None:
        return
    closing = asyncio.ensure_future(work.result().aclose())
    _closing.add(closing)
    closing.add_done_callback(_closed)


def _closed(closing: asyncio.Future[Any]) -> None:
    _closing.discard(closing)
    if not closing.cancelled():
        closing.exception()
