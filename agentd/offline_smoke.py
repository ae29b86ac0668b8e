"""One real question to every model through the gateway, with its key. Without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agentd.adapters import gateway_ask
from agentd.adapters.gateway_ask import Answer
from agentd.core.gateway.model import MODELS, Catalog
from agentd.core.gateway.prune import prune
from agentd.errors import AgentdError
from agentd.offline_gateway import Read
from agentd.offline_secrets import ring, value

QUESTION = "Say hello in one short sentence."
TOKENS = 32
WORDS = 60
"""Characters of an answer that are shown."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`first` is the time to the first token; None where none came. Times in seconds."""

    model: str
    kind: str
    """ "chat", "completion" or "embedding"."""
    ok: bool
    status: int
    total: float
    first: float | None
    answer: str
    error: str


def wanted(found: Read, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(model, kind) to ask: those named, else every enabled one of the sources. Raises AgentdError."""
    kinds = dict(_kinds(found.catalog)) if found.catalog is not None else {}
    if names:
        return tuple((name, kinds.get(name, "chat")) for name in dict.fromkeys(names))
    if found.catalog is None:
        raise AgentdError(
            "gateway-sources",
            f"cannot tell which models there are: {found.directory} cannot be read",
            hint="see: agentctl gateway validate; or name models with --model",
        )
    models = tuple((model.name, kinds[model.name]) for model in prune(found.catalog).models)
    if not models:
        raise AgentdError("gateway-sources", f"no model is enabled in {found.directory}/{MODELS}")
    return models


def ask(
    found: Read,
    models: Iterable[tuple[str, str]],
    *,
    url: str = "",
    timeout: float = 120.0,
    concurrency: int = 1,
    told: Callable[[Asked], None] = lambda _: None,
) -> tuple[Asked, ...]:
    """In the order given; `told` hears of each as soon as it and those before it are done. Raises
    AgentdError("gateway-key")."""
    here = ring(found)
    holder = here.keys[0].places[0].holder
    key = value(holder)
    if not key:
        message = f"cannot ask the gateway: {holder.path} has no {holder.variable}"
        raise AgentdError("gateway-key", message, hint="agentctl secrets init")
    return tuple(_all(url or here.url, key, tuple(models), timeout, max(1, concurrency), told))


def _all(
    url: str,
    key: str,
    models: tuple[tuple[str, str], ...],
    timeout: float,
    concurrency: int,
    told: Callable[[Asked], None],
) -> Iterator[Asked]:
    with ThreadPoolExecutor(concurrency, thread_name_prefix="smoke") as pool:
        for asked in pool.map(lambda item: _one(url, key, item[0], item[1], timeout), models):
            told(asked)
            yield asked


def _one(url: str, key: str, model: str, kind: str, timeout: float) -> Asked:
    if kind == "embedding":
        answer = gateway_ask.embed(url, key, model, QUESTION, timeout=timeout)
    elif kind == "completion":
        answer = gateway_ask.complete(url, key, model, QUESTION, tokens=TOKENS, timeout=timeout)
    else:
        answer = gateway_ask.chat(url, key, model, QUESTION, tokens=TOKENS, timeout=timeout)
    return _asked(model, kind, answer, key)


def _asked(model: str, kind: str, answer: Answer, key: str) -> Asked:
    """A server may repeat what it was sent: the key is taken out of its words."""
    text, error = (" ".join(part.replace(key, "***").split()) for part in (answer.text, answer.error))
    short = text if len(text) <= WORDS else text[: WORDS - 3] + "..."
    return Asked(model, kind, not error, answer.status, answer.total, answer.first, short, error)


def _kinds(catalog: Catalog) -> Iterator[tuple[str, str]]:
    for model in catalog.models:
        able = model.capabilities
        kind = "embedding" if "embedding" in able and "chat" not in able else "chat"
        if "completion" in able and "chat" not in able and kind == "chat":
            kind = "completion"
        for name in (model.name, *model.aliases):
            yield name, kind
