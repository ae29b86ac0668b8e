"""A model that came back starts without the cooldown and the failures of the time before it went."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any

log = logging.getLogger(__name__)


def clear(model: str) -> None:
    """Of every deployment of the model; in memory at once, in a shared Redis soon."""
    try:
        router = importlib.import_module("litellm.proxy.proxy_server").llm_router
        for deployment in router.get_model_ids(model_name=model) if router is not None else ():
            _clear(router, deployment)
    except Exception:  # LiteLLM's insides differ between versions; a cooldown ends by itself
        log.warning("cannot end the cooldown of %s: this LiteLLM keeps it elsewhere", model)


def _clear(router: Any, deployment: str) -> None:
    cooldown = f"deployment:{deployment}:cooldown"
    failures = f"deployment:{deployment}:allowed_fails"
    store = getattr(router.cooldown_cache, "cooldown_store", router.cooldown_cache.cache)
    for cache, prefix in ((store, cooldown), (router.cache, cooldown), (router.cache, failures)):
        memory = cache.in_memory_cache
        # The counts of single kinds of errors have a suffix.
        for key in [k for k in tuple(memory.cache_dict) if k == prefix or str(k).startswith(prefix + ":")]:
            memory.delete_cache(key)
        if cache.redis_cache is not None:
            task = asyncio.ensure_future(cache.redis_cache.async_delete_cache(prefix))
            task.add_done_callback(_seen)


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("cannot end a cooldown in Redis: %s", type(task.exception()).__name__)
