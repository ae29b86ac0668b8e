"""One real question to every model through the gateway, with its key. Without a daemon."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Thread

from agentd.adapters import env_files, gateway_ask
from agentd.adapters.gateway_ask import Answer
from agentd.core.gateway.model import Policy
from agentd.core.gateway.served import Served, read_served
from agentd.core.gateway.yaml_text import parse
from agentd.core.schema import Settings
from agentd.errors import AgentdError
from agentd.offline_gateway import Read, gateway_url

QUESTION = "Say hello in one short sentence."
TOKENS = 32
WORDS = 60
"""Characters of an answer that are shown."""
KINDS = ("chat", "completion", "embedding")
"""What can be asked in a sentence."""
ABSENT = " is not available now: slot "
"""In the gateway's own words for a model that its slot does not hold."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`first` is the time to the first token; None where none came. Times in seconds."""

    model: str
    kind: str
    """One of KINDS."""
    ok: bool
    status: int
    total: float
    first: float | None
    answer: str
    error: str
    by: str = ""
    """The model that answered in its place; "" when it was itself, or nobody says."""
    absent: bool = False
    """Refused as when_absent says, since its slot holds another model: that is as configured."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Who is to be asked, where and with which key."""

    models: tuple[str, ...]
    served: Served
    url: str
    key: str = field(repr=False)
    left_out: tuple[str, ...] = ()
    """Models that cannot be asked in a sentence."""


def questions(found: Read, *, only: str = "", url: str = "") -> Questions:
    """Each model of the generated file once, whatever its aliases; or `only` this one. Raises AgentdError."""
    served = _served(found)
    models = (only,) if only else tuple(name for name in served.kinds if served.kind(name) in KINDS)
    if not models:
        message = f"cannot tell which models there are: {found.files.path} has none"
        raise AgentdError(
            "gateway-config", message, hint="agentctl gateway generate writes it; or name a model with --model"
        )
    left_out = tuple(name for name in served.kinds if name not in models) if not only else ()
    address = url or gateway_url(found.settings, found.catalog)
    return Questions(models, served, address, _key(found.settings, served), left_out)


def ask(
    wanted: Questions,
    *,
    timeout: float = 120.0,
    concurrency: int = 1,
    told: Callable[[Asked], None] = lambda _: None,
) -> tuple[Asked, ...]:
    """In the order given; `told` hears of each as soon as it and those before it are done."""
    return tuple(_all(wanted, timeout, max(1, concurrency), told))


def _served(found: Read) -> Served:
    text = asyncio.run(found.files.generated())
    return read_served(parse(text, str(found.files.path))) if text else Served()


def _key(settings: Settings, served: Served) -> str:
    policy = settings.gateway
    variable = served.key_variable or Policy().master_key
    key = env_files.read(policy.env_file).value(variable)
    if not key:
        message = f"cannot ask the gateway: {policy.env_file} has no {variable}"
        raise AgentdError("gateway-key", message, hint="agentctl secrets init")
    return key


def _all(wanted: Questions, timeout: float, concurrency: int, told: Callable[[Asked], None]) -> Iterator[Asked]:
    """By daemon threads: who interrupts it does not wait for answers."""
    todo = deque((name, Future[Asked]()) for name in wanted.models)
    asked = [future for _, future in todo]
    for _ in range(min(concurrency, len(asked))):
        Thread(target=_ask_on, args=(wanted, timeout, todo), daemon=True, name="smoke").start()
    for future in asked:
        told(future.result())
        yield future.result()


def _ask_on(wanted: Questions, timeout: float, todo: deque[tuple[str, Future[Asked]]]) -> None:
    while todo:
        try:
            name, future = todo.popleft()
        except IndexError:
            return  # Another thread was quicker.
        try:
            future.set_result(_one(wanted, name, timeout))
        except BaseException as error:  # It is raised where the answer is waited for.
            future.set_exception(error)


def _one(wanted: Questions, model: str, timeout: float) -> Asked:
    kind, url, key = wanted.served.kind(model), wanted.url, wanted.key
    if kind == "embedding":
        answer = gateway_ask.embed(url, key, model, QUESTION, timeout=timeout)
    elif kind == "completion":
        answer = gateway_ask.complete(url, key, model, QUESTION, tokens=TOKENS, timeout=timeout)
    else:
        answer = gateway_ask.chat(url, key, model, QUESTION, tokens=TOKENS, timeout=timeout)
    return _asked(wanted.served, model, kind, answer, key)


def _asked(served: Served, model: str, kind: str, answer: Answer, key: str) -> Asked:
    """A server may repeat what it was sent: the key is taken out of its words."""
    text, error = (" ".join(part.replace(key, "***").split()) for part in (answer.text, answer.error))
    short = text if len(text) <= WORDS else text[: WORDS - 3] + "..."
    slot = served.absentees.get(served.model(model))
    absent = answer.status == 503 and ABSENT in error and slot is not None and slot.when_absent != "switch"
    by = served.other(model, answer.deployment)
    return Asked(model, kind, not error, answer.status, answer.total, answer.first, short, error, by, absent)
