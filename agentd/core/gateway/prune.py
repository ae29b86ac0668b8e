"""What of the catalog goes into the config: disabled things are left out, with every reference to them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentd.core.gateway.generated import LeftOut
from agentd.core.gateway.model import Catalog, Deployment, Model, Provider
from agentd.core.gateway.tree import Place


@dataclass(frozen=True, slots=True)
class Pruned:
    """`models` serve: each has a deployment with an enabled provider, and its references are names of `models`."""

    models: tuple[Model, ...]
    providers: Mapping[str, Provider]
    left_out: tuple[LeftOut, ...] = ()


def prune(catalog: Catalog) -> Pruned:
    """Of a name that comes twice the first counts; the checks refuse such sources."""
    providers: dict[str, Provider] = {}
    for provider in catalog.providers:
        providers.setdefault(provider.name, provider)
    left_out: list[LeftOut] = [
        LeftOut(f"provider {p.name}", "it is disabled", _at(p, "status")) for p in providers.values() if not p.enabled
    ]
    models, gone = _live(catalog, providers, left_out)
    names = _names(models)
    aliased = [_with_aliases(model, names, left_out) for model in models.values()]
    served = tuple(_with_references(model, names, gone, left_out) for model in aliased)
    enabled = {name: provider for name, provider in providers.items() if provider.enabled}
    return Pruned(served, enabled, tuple(left_out))


def _live(
    catalog: Catalog, providers: Mapping[str, Provider], left_out: list[LeftOut]
) -> tuple[dict[str, Model], dict[str, str]]:
    """The models that can serve, and of the other names (aliases too) why they cannot."""
    models: dict[str, Model] = {}
    gone: dict[str, str] = {}
    for model in catalog.models:
        if model.name in models or model.name in gone:
            continue
        kept = tuple(d for d in model.deployments if _why_not(d, providers) == "")
        why = "" if kept else "no provider of it is enabled"
        if not model.enabled:
            why = "it is disabled"
        if why:
            left_out.append(LeftOut(f"model {model.name}", why, _at(model, "status")))
            gone.update((name, f"{model.name} is not served: {why}") for name in (*model.aliases, model.name))
            continue
        for deployment in model.deployments:
            if deployment not in kept:
                what = f"deployment {deployment.provider}/{deployment.model} of {model.name}"
                left_out.append(LeftOut(what, _why_not(deployment, providers), deployment.place))
        models[model.name] = replace(model, deployments=kept)
    return models, gone


def _why_not(deployment: Deployment, providers: Mapping[str, Provider]) -> str:
    provider = providers.get(deployment.provider)
    if provider is None:
        return f"there is no provider {deployment.provider}"
    return "" if provider.enabled else f"provider {provider.name} is disabled"


def _names(models: Mapping[str, Model]) -> dict[str, str]:
    """Name or alias -> the model that answers to it. A model's name wins over an alias, the first alias over others."""
    names = {name: name for name in models}
    for model in models.values():
        for alias in model.aliases:
            names.setdefault(alias, model.name)
    return names


def _with_aliases(model: Model, names: Mapping[str, str], left_out: list[LeftOut]) -> Model:
    """Without those that lead to another model: LiteLLM would take either."""
    kept = tuple(dict.fromkeys(a for a in model.aliases if names[a] == model.name and a != model.name))
    for index, alias in enumerate(model.aliases):
        if names[alias] != model.name:
            why = f"the name is taken by {names[alias]}"
            left_out.append(LeftOut(f"alias {alias} of {model.name}", why, _at(model, f"aliases.{index}", "aliases")))
    return replace(model, aliases=kept)


def _with_references(model: Model, names: Mapping[str, str], gone: Mapping[str, str], left_out: list[LeftOut]) -> Model:
    def served(field: str, word: str, targets: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(targets):
            if name not in names:
                why = gone.get(name, f"there is no model {name}")
                place = _at(model, f"{field}.{index}", field)
                left_out.append(LeftOut(f"{word} {name} of {model.name}", why, place))
        return tuple(dict.fromkeys(names[name] for name in targets if name in names))

    fallbacks = served("fallbacks", "fallback", model.fallbacks)
    context = served("context_fallbacks", "context fallback", model.context_fallbacks)
    return replace(model, fallbacks=fallbacks, context_fallbacks=context)


def _at(thing: Provider | Model, *keys: str) -> Place:
    """Where the first of these fields stands that is written; else where the thing is named."""
    return next((thing.places[key] for key in keys if key in thing.places), thing.place)
