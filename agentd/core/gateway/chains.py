"""What a request can reach by fallbacks, as LiteLLM walks them, and how long that can take. Pure, without recursion.

LiteLLM tries the fallbacks of the model that failed one after the other, and each of those that fails brings its own
fallbacks first; no model is tried twice. A fallback without any goes on with the rest of the first model's list. So
the document writes for every model the whole way in that order, which makes it the same whether a try fails before its
answer or in a stream that never began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.gateway.model import Absent, Model, Policy

FIRST_DELAY, LONGEST_DELAY, JITTER = 0.5, 8.0, 0.75
"""Seconds: LiteLLM's back-off before a retry, doubled each time, and what it adds at random."""

Graph = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Worst:
    """`text`: the sum written out, "(3 x 30 s + 5.75 s back-off) for qwen + ... = 191.5 s"."""

    seconds: float
    text: str


def walk(models: Iterable[Model]) -> Mapping[str, tuple[str, ...]]:
    """Model -> the models that a request for it tries when each of them fails, itself first.

    References must be names of `models` (prune() sees to that); others, and a cycle's way back, are passed over.
    """
    graph = {model.name: model.fallbacks for model in models}
    return {name: preorder(graph, name) for name in graph}


def reach(models: Iterable[Model]) -> Mapping[str, tuple[str, ...]]:
    """As walk(), with what a prompt that is too long may reach besides: every try that one request can come to.

    Where the way leads back to a model with an alias, that model comes twice: LiteLLM does not see that the alias, by
    which it was asked for, is the same.
    """
    known = tuple(models)
    graph = {model.name: (*model.fallbacks, *model.context_fallbacks) for model in known}
    return {model.name: _reach(graph, model) for model in known}


def _reach(graph: Graph, model: Model) -> tuple[str, ...]:
    way = preorder(graph, model.name)
    again = model.aliases and any(model.name in graph[name] for name in way[1:])
    return (*way, model.name) if again else way


def preorder(graph: Graph, start: str) -> tuple[str, ...]:
    """Everything that `start` leads to, itself first, in the order in which it is met."""
    seen: dict[str, None] = {}
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen and name in graph:
            seen[name] = None
            todo.extend(reversed(graph[name]))
    return tuple(seen)


def cycles(models: Iterable[Model], field: str = "fallbacks") -> tuple[tuple[str, ...], ...]:
    """One cycle of each knot of models that lead to each other: ("a", "b", "a"), or ("a", "a").

    `field`: "fallbacks" or "context_fallbacks". A cycle over both is none: a too long prompt goes up to the larger
    model whose failure comes back down, and LiteLLM tries neither twice.
    """
    graph = {model.name: tuple(getattr(model, field)) for model in models}
    return tuple(_cycle_in(graph, group) for group in _knots(graph))


def _knots(graph: Graph) -> list[list[str]]:
    """Strongly connected components with an edge inside, by Tarjan's algorithm with a stack of our own."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: dict[str, None] = {}
    found: list[list[str]] = []
    for root in graph:
        work = [(root, 0)] if root not in index else []
        while work:
            name, position = work.pop()
            if position == 0:
                index[name] = low[name] = len(index)
                open_[name] = None
            targets = graph[name]
            while position < len(targets):
                target = targets[position]
                position += 1
                if target not in graph:
                    continue
                if target not in index:
                    work += [(name, position), (target, 0)]
                    break
                if target in open_:
                    low[name] = min(low[name], index[target])
            else:
                if low[name] == index[name]:
                    group = _closed(open_, name)
                    if len(group) > 1 or name in targets:
                        found.append(group)
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[name])
    return found


def _closed(open_: dict[str, None], name: str) -> list[str]:
    """The models opened since `name`, in the order in which they were met."""
    group: list[str] = []
    while not group or group[-1] != name:
        group.append(open_.popitem()[0])
    return group[::-1]


def _cycle_in(graph: Graph, group: Sequence[str]) -> tuple[str, ...]:
    """A shortest one through the group's first model, by breadth."""
    start, members = group[0], frozenset(group)
    came: dict[str, str] = {}
    queue = [start]
    for name in queue:
        for target in graph[name]:
            if target == start:
                return _path(came, start, name)
            if target in members and target not in came:
                came[target] = name
                queue.append(target)
    return (start, start)  # not reached: a knot leads back to each of its members


def _path(came: Mapping[str, str], start: str, last: str) -> tuple[str, ...]:
    """From `start` to `last` and back to it."""
    path = [start]
    while last != start:
        path.append(last)
        last = came[last]
    return (start, *reversed(path))


def deepest(models: Iterable[Model]) -> int:
    """What `max_fallbacks` must at least be, that no way is cut short: LiteLLM counts a try's place on it."""
    return max((len(chain) - 1 for chain in reach(models).values()), default=0)


def backoff(retries: int) -> float:
    """Longest sum of the pauses of one model's tries; LiteLLM pauses after the last retry too."""
    if retries < 1:
        return 0.0
    return sum(min(FIRST_DELAY * 2.0**n, LONGEST_DELAY) + JITTER for n in range(retries + 1))


def worst_case(policy: Policy, chain: Sequence[Model]) -> Worst:
    """How long an answer can take when every try of every model runs into its limit.

    Counts what config decides: tries, their limit, the pauses between them and the wait for an absent model. A stream's
    try is limited alike, until it begins. A server that asks for a longer pause (Retry-After), or that begins a stream
    and then says nothing, is not in it; the whole-answer limit ends such a request.
    """
    total, parts = 0.0, []
    tries = policy.retries + 1
    if chain and chain[0].when_absent in (Absent.WAIT, Absent.SWITCH):
        total += policy.absent_wait
        parts.append(f"{policy.absent_wait:g} s until {chain[0].name} is resident")
    for model in chain:
        limit = model.try_timeout if model.try_timeout is not None else policy.try_timeout
        rounds, pause = _rounds(model), backoff(policy.retries)
        total += rounds * (tries * limit + pause)
        times = f"{rounds} x " if rounds > 1 else ""
        parts.append(f"{times}({tries} x {limit:g} s + {pause:g} s back-off) for {model.name}")
    return Worst(total, f"{' + '.join(parts)} = {total:g} s")


def _rounds(model: Model) -> int:
    """LiteLLM goes through all tries once for every `order` of a model's deployments."""
    orders = {deployment.params.get("order") for deployment in model.deployments} - {None}
    return max(1, len(orders))
