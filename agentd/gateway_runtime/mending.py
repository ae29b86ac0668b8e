"""What keeps LiteLLM from what its settings promise, mended in its process; left alone where it has changed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


def mend() -> None:
    """Before LiteLLM serves."""
    if importlib.util.find_spec("prisma") is None:
        _refusals()
    _refused_connections()


def _refusals() -> None:
    """Without the client of a database LiteLLM answers a request without a key with 500 instead of 401: it asks
    whether a refusal is a failure of the database, and for that imports the client."""
    try:
        handler: Any = importlib.import_module("litellm.proxy.db.exception_handler").PrismaDBExceptionHandler
    except (ImportError, AttributeError):
        return
    for name, kind in list(vars(handler).items()):
        if name.startswith("is_") and isinstance(kind, staticmethod):
            setattr(handler, name, staticmethod(_no_database(kind.__func__)))


def _no_database(question: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(question)
    def asked(*args: Any, **kwargs: Any) -> Any:
        try:
            return question(*args, **kwargs)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "prisma":
                raise
            return False

    return asked


def _refused_connections() -> None:
    """LiteLLM does not count a failure whose text has "APIConnectionError", which is how it tells of a server that
    does not listen, for some APIs: a dead Ollama would never open its breaker."""
    try:
        module: Any = importlib.import_module("litellm.router_utils.cooldown_handlers")
        required = module._is_cooldown_required
    except (ImportError, AttributeError):
        return

    @functools.wraps(required)
    def asked(*args: Any, **kwargs: Any) -> Any:
        if "exception_str" in kwargs:
            kwargs["exception_str"] = None
        return required(*args, **kwargs)

    module._is_cooldown_required = asked
