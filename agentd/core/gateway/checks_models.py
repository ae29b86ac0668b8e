"""Checks of models and their fallbacks: what is left of them, whether they end, and whether they end in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from agentd.core.gateway import chains
from agentd.core.gateway.checks_context import ERROR, INFO, WARNING, Context, deployment_place, listed, place_of
from agentd.core.gateway.model import MODELS, Absent, Model
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.prune import prune
from agentd.core.gateway.tree import Place
from agentd.findings import Severity

_FAMILIES = {"chat": "text", "completion": "text", "embedding": "embedding", "rerank": "rerank", "image": "image"}
_FEATURES = ("vision", "tools", "json", "audio")
_WORDS = {"fallbacks": "fallbacks", "context_fallbacks": "context fallbacks"}
_SHOWN = 8
"""Models of a chain that is too long, at least."""


def disabled_provider(context: Context) -> Iterator[Problem]:
    for model in context.catalog.models:
        if not model.enabled:
            continue
        down = {n: deployment for n, deployment in enumerate(model.deployments) if not context.is_up(deployment)}
        names = listed(dict.fromkeys(deployment.provider for deployment in down.values()))
        if down and len(down) == len(model.deployments):
            text = f'"{model.name}" is left out: {names} {"is" if "," not in names else "are"} disabled'
            first = model.deployments[0].provider
            fix = f"enable one with: agentctl gateway enable provider {first}; or disable the model too"
            place = deployment_place(model, 0, "provider")
            yield Problem("disabled-provider", WARNING, place, names, text, fix)
            continue
        for number, deployment in down.items():
            text = f'a deployment of "{model.name}" is left out: {deployment.provider} is disabled'
            fix = f"enable it with: agentctl gateway enable provider {deployment.provider}; or leave it so"
            place = deployment_place(model, number, "provider")
            yield Problem("disabled-provider", INFO, place, deployment.provider, text, fix)


def disabled_fallback(context: Context) -> Iterator[Problem]:
    for model in context.catalog.models:
        if model.name not in context.served:
            continue
        for key, names in (("fallbacks", model.fallbacks), ("context_fallbacks", model.context_fallbacks)):
            there = [name for name in names if context.canonical.get(name) in context.served]
            for number, name in enumerate(names):
                target = context.canonical.get(name)
                if target is None or target in context.served:
                    continue
                left = "" if there or key != "fallbacks" else _without_any(model)
                text = f'the fallback "{name}" of "{model.name}" is left out: {_why(context.models[target])}{left}'
                place = place_of(model, f"{key}.{number}", key)
                yield Problem("disabled-fallback", WARNING, place, name, text, "enable it, or name another one")


def _why(target: Model) -> str:
    return "it is disabled" if not target.enabled else "its provider is disabled"


def _without_any(model: Model) -> str:
    if model.when_absent is Absent.FALLBACK:
        return "; none is left, and requests are refused while its slot holds another model"
    return "; none is left"


def no_model_left(context: Context) -> Iterator[Problem]:
    if context.served:
        return
    models = context.catalog.models
    text = "no model is left: all are disabled, or their providers are" if models else "there is no model at all"
    place = models[0].place if models else Place(MODELS)
    fix = "enable a model and a provider of it" if models else f"add one below models: in {MODELS}"
    yield Problem("no-model-left", ERROR, place, "", text, fix)


def repeated_fallback(context: Context) -> Iterator[Problem]:
    for model in context.catalog.models:
        for key, names in (("fallbacks", model.fallbacks), ("context_fallbacks", model.context_fallbacks)):
            seen: dict[str, str] = {}
            for number, name in enumerate(names):
                target = context.canonical.get(name, name)
                if target in seen:
                    also = f', as "{seen[target]}"' if seen[target] != name else ""
                    text = f'the fallback "{name}" of "{model.name}" is there twice{also}; it is tried once'
                    place = place_of(model, f"{key}.{number}", key)
                    yield Problem("repeated-fallback", WARNING, place, name, text, "remove the second one")
                seen.setdefault(target, name)


def fallback_cycle(context: Context) -> Iterator[Problem]:
    """Fallbacks that lead back; a warning where a model of the cycle is left out, so that it cannot run now."""
    whole = [_resolved(context, model) for model in context.models.values()]
    for field in ("fallbacks", "context_fallbacks"):
        for cycle in _running_cycles(context, field):
            yield _cycle(context, field, cycle, ERROR)
        for cycle in chains.cycles(whole, field):
            if not context.served.issuperset(cycle):
                yield _cycle(context, field, cycle, WARNING)


def _running_cycles(context: Context, field: str) -> tuple[tuple[str, ...], ...]:
    served = [_resolved(context, model) for model in context.models.values() if model.name in context.served]
    return chains.cycles(served, field)


def _resolved(context: Context, model: Model) -> Model:
    """With the models' names instead of aliases, and without unknown ones."""

    def names(references: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(context.canonical[name] for name in references if name in context.canonical)

    return replace(model, fallbacks=names(model.fallbacks), context_fallbacks=names(model.context_fallbacks))


def _cycle(context: Context, field: str, cycle: tuple[str, ...], severity: Severity) -> Problem:
    names = tuple(dict.fromkeys(cycle))
    last, way = context.models[names[-1]], (*names, names[0])
    references: tuple[str, ...] = getattr(last, field)
    number = next(n for n, name in enumerate(references) if context.canonical.get(name) == names[0])
    walk = " -> ".join(way if len(way) <= 12 else (*way[:6], "...", *way[-5:]))
    text = f'the {_WORDS[field]} of "{cycle[0]}" lead back to it: {walk}'
    fix = f'remove "{references[number]}" from the {_WORDS[field]} of "{last.name}"'
    return Problem("fallback-cycle", severity, place_of(last, f"{field}.{number}", field), walk, text, fix)


def chain_too_long(context: Context) -> Iterator[Problem]:
    """The worst case of each request by arithmetic. A policy that is too slow for any single model is said once."""
    policy, limit = context.policy, context.policy.answer_timeout
    models = {model.name: model for model in prune(context.catalog).models}
    plain = Model("any model", Place(MODELS), (), when_absent=Absent.REFUSE)
    alone = chains.worst_case(policy, (plain,))
    if alone.seconds > limit and any(model.try_timeout is None for model in models.values()):
        text = (
            f"one model alone can take {alone.seconds:g} s, longer than a whole answer may ({limit:g} s): {alone.text}"
        )
        place = context.policy_place("timeouts.try", "retries", "timeouts.answer")
        fix = "lower timeouts.try or retries, or raise timeouts.answer"
        yield Problem("chain-too-long", ERROR, place, f"{alone.seconds:g} s", text, fix)
        return
    alone_cost = {name: chains.worst_case(policy, (_present(model),)).seconds for name, model in models.items()}
    slow = {name for name, seconds in alone_cost.items() if seconds > limit}
    circling = {name for field in _WORDS for cycle in _running_cycles(context, field) for name in cycle}
    for model in models.values():
        chain = (model,) if model.name in slow else _chain(models, alone_cost, model.name, limit)
        worst = chains.worst_case(policy, chain)
        # A cycle, or a model that is too slow by itself, is said where it is, not for all that lead there.
        other = any(step.name in circling or (step.name in slow and step is not model) for step in chain)
        if worst.seconds > limit and not other:
            yield _too_long(context, chain, worst)


def _present(model: Model) -> Model:
    """Without the wait for its slot."""
    return replace(model, when_absent=Absent.REFUSE)


def _chain(models: Mapping[str, Model], costs: Mapping[str, float], start: str, limit: float) -> tuple[Model, ...]:
    """What a request can reach in turn, as chains.reach() says; of a long way only so much that it is over the limit,
    so that a thousand models one behind the other take no thousand times a thousand steps."""
    seen: dict[str, None] = {}
    todo, total = [start], 0.0
    while todo and (total <= limit or len(seen) < _SHOWN):
        name = todo.pop()
        if name not in seen:
            seen[name] = None
            total += costs[name]
            todo.extend(reversed(_next(models[name])))
    way = [models[name] for name in seen]
    again = models[start].aliases and any(start in _next(model) for model in way[1:])
    return (*way, models[start]) if again else tuple(way)


def _next(model: Model) -> tuple[str, ...]:
    return (*model.fallbacks, *model.context_fallbacks)


def _too_long(context: Context, chain: tuple[Model, ...], worst: chains.Worst) -> Problem:
    limit, start = context.policy.answer_timeout, chain[0]
    fits = next(
        (n for n in range(len(chain), 0, -1) if chains.worst_case(context.policy, chain[:n]).seconds <= limit), 0
    )
    way = " -> ".join(model.name for model in chain)
    text = f'a request for "{start.name}" can take longer than a whole answer may ({limit:g} s): {worst.text}'
    if len(chain) > 1:
        place = place_of(start, "fallbacks", "context_fallbacks")
        first = "its own tries" if fits == 1 else f"the first {fits} models"
        fix = f"only {first} fit: shorten the chain, lower timeouts.try or retries, or raise timeouts.answer"
    else:
        place = place_of(start, "timeouts.try", "when_absent")
        fix = "lower its timeouts.try, or timeouts.wait of the policy, or raise timeouts.answer"
    return Problem("chain-too-long", ERROR, place, way, text, fix)


def capability_mismatch(context: Context) -> Iterator[Problem]:
    """Fallbacks that cannot do what they stand in for; models that declare nothing are not judged."""
    for model in context.catalog.models:
        for field in ("fallbacks", "context_fallbacks"):
            names: tuple[str, ...] = getattr(model, field)
            for number, name in enumerate(names):
                target = context.models.get(context.canonical.get(name, ""))
                found = _mismatch(model, target) if target is not None and target is not model else None
                if found is not None:
                    severity, text = found
                    severity = severity if model.name in context.served else WARNING
                    place = place_of(model, f"{field}.{number}", field)
                    fix = f'remove "{name}", or correct the capabilities of the two'
                    yield Problem("capability-mismatch", severity, place, name, text, fix)


def _mismatch(model: Model, target: Model) -> tuple[Severity, str] | None:
    ours, theirs = _families(model), _families(target)
    if not ours or not theirs:
        return None
    pair = f'the fallback "{target.name}" of "{model.name}"'
    if ours.isdisjoint(theirs):
        return ERROR, f"{pair} is for {' and '.join(sorted(theirs))}, not for {' and '.join(sorted(ours))}"
    if "embedding" in ours & theirs:
        return WARNING, f"{pair} is another embedding model: vectors of the two cannot be compared with each other"
    missing = [feature for feature in _FEATURES if feature in model.capabilities and feature not in target.capabilities]
    if missing:
        return WARNING, f"{pair} has no {', '.join(missing)}: requests that need it fail there"
    return None


def _families(model: Model) -> set[str]:
    found = {_FAMILIES[capability] for capability in model.capabilities if capability in _FAMILIES}
    if not found and model.capabilities:
        found.add("audio" if set(model.capabilities) == {"audio"} else "text")
    return found
