"""Checks of what the sources name: nothing twice, and every name means something."""

from __future__ import annotations

from collections.abc import Iterator

from agentd.core.gateway.checks_context import ERROR, INFO, WARNING, Context, deployment_place, listed, place_of, vllm
from agentd.core.gateway.model import GATEWAY_PORT, MODELS, PORTS, PROVIDERS, Absent, Model
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.tree import Place


def duplicate_name(context: Context) -> Iterator[Problem]:
    """Names of one kind twice, and names that models and aliases share."""
    catalog = context.catalog
    for kind, things in (("provider", catalog.providers), ("port", catalog.ports), ("model", catalog.models)):
        seen: dict[str, Place] = {}
        for thing in things:
            if thing.name in seen:
                yield _twice(thing.place, thing.name, f'the {kind} "{thing.name}" is also at {seen[thing.name]}')
            seen.setdefault(thing.name, thing.place)
    owners: dict[str, Model] = {}
    for model in catalog.models:
        for number, alias in enumerate(model.aliases):
            place = place_of(model, f"aliases.{number}", "aliases")
            owner = owners.setdefault(alias, model)
            if alias == model.name:
                yield _twice(place, alias, f'"{alias}" is an alias of itself')
            elif alias in context.models:
                text = (
                    f'the alias "{alias}" of "{model.name}" is the name of the model at {context.models[alias].place}'
                )
                yield _twice(place, alias, text)
            elif owner is not model:
                yield _twice(place, alias, f'the alias "{alias}" of "{model.name}" is also one of "{owner.name}"')
            elif alias in model.aliases[:number]:
                yield _twice(place, alias, f'the alias "{alias}" of "{model.name}" is there twice')


def _twice(place: Place, name: str, text: str) -> Problem:
    return Problem("duplicate-name", ERROR, place, name, text, "rename one of the two, or remove it")


def unknown_provider(context: Context) -> Iterator[Problem]:
    for model in context.catalog.models:
        for number, deployment in enumerate(model.deployments):
            name = deployment.provider
            if name in context.providers or context.is_broken(PROVIDERS, "provider", name):
                continue
            severity = ERROR if model.enabled else WARNING
            text = f'the provider "{name}" of "{model.name}" is not in providers.yaml'
            fix = _instead(context, name, list(context.providers), f'add "{name}" to providers.yaml')
            yield Problem("unknown-provider", severity, deployment_place(model, number, "provider"), name, text, fix)


def unknown_port(context: Context) -> Iterator[Problem]:
    for provider in context.catalog.providers:
        name = provider.port
        if name and name not in context.ports and not context.is_broken(PORTS, "port", name):
            severity = ERROR if provider.enabled else WARNING
            text = f'the port "{name}" of "{provider.name}" is not in ports.yaml'
            fix = _instead(context, name, list(context.ports), f'add "{name}" to ports.yaml')
            yield Problem("unknown-port", severity, place_of(provider, "port"), name, text, fix)


def unknown_fallback(context: Context) -> Iterator[Problem]:
    for model in context.catalog.models:
        for key, names in (("fallbacks", model.fallbacks), ("context_fallbacks", model.context_fallbacks)):
            for number, name in enumerate(names):
                if name in context.canonical or context.is_broken(MODELS, "model", name):
                    continue
                severity = ERROR if model.enabled else WARNING
                text = f'the fallback "{name}" of "{model.name}" is no model and no alias'
                fix = _instead(context, name, list(context.canonical), f'remove it, or add the model "{name}"')
                place = place_of(model, f"{key}.{number}", key)
                yield Problem("unknown-fallback", severity, place, name, text, fix)


def _instead(context: Context, name: str, known: list[str], otherwise: str) -> str:
    close = context.closest(name, known)
    return f'write "{close}" if that is meant' if close else otherwise


def gateway_port(context: Context) -> Iterator[Problem]:
    """The gateway's own port: registered, and the one of agentd's service with the role gateway."""
    port = context.ports.get(GATEWAY_PORT)
    if port is None and context.is_broken(PORTS, "port", GATEWAY_PORT):
        return
    if port is None:
        text = f'the registry has no port "{GATEWAY_PORT}", which the gateway itself listens on'
        fix = f'add "{GATEWAY_PORT}: 4001" below ports: in {PORTS}'
        yield Problem("gateway-port", WARNING, Place(PORTS), "", text, fix)
        return
    for name, address in context.gateways():
        if address.port != port.number:
            text = f"the gateway has port {port.number} here, and {address.port} in services.{name} of agentd.toml"
            fix = "write the same port to both"
            yield Problem("gateway-port", WARNING, port.place, str(port.number), text, fix)


def unknown_service(context: Context) -> Iterator[Problem]:
    services = context.facts.services
    if services is None:
        return
    for provider in context.catalog.providers:
        name = provider.service
        if name and name not in services:
            text = f'the service "{name}" of "{provider.name}" is not in agentd.toml, so nobody knows its slot'
            known = listed(services) or "none is configured"
            fix = _instead(context, name, list(services), f"name one of agentd.toml ({known}), or leave service out")
            yield Problem("unknown-service", WARNING, place_of(provider, "service"), name, text, fix)


def slot_unmatched(context: Context) -> Iterator[Problem]:
    """vLLM providers that no slot is known of, and models that wait for a slot which they do not have."""
    services = context.facts.services
    if services is None:
        return
    for provider in context.catalog.providers:
        known = not provider.service or provider.service in services
        if provider.enabled and vllm(provider) and known and not context.slot(provider):
            text = f'"{provider.name}" belongs to no slot of agentd.toml, so its models count as always there'
            fix = "add service: NAME with the service of agentd.toml, or leave it if it does not share its GPUs"
            yield Problem("slot-unmatched", INFO, provider.place, provider.base_url, text, fix)
    for model in context.catalog.models:
        waits = model.when_absent in (Absent.WAIT, Absent.SWITCH)
        providers = [context.providers.get(deployment.provider) for deployment in model.deployments]
        if model.enabled and waits and not any(p is not None and context.slot(p) for p in providers):
            text = f'"{model.name}" has when_absent: {model.when_absent}, and no provider of it belongs to a slot'
            fix = "leave when_absent out, or use a provider whose service has a slot"
            yield Problem("slot-unmatched", WARNING, place_of(model, "when_absent"), model.when_absent, text, fix)


def served_name(context: Context) -> Iterator[Problem]:
    """vLLM answers 404 for a name that it does not serve."""
    for model in context.catalog.models:
        for number, deployment in enumerate(model.deployments):
            provider = context.providers.get(deployment.provider)
            if provider is None or not vllm(provider) or not model.enabled:
                continue
            asked, name = deployment.model, context.service(provider)
            service = (context.facts.services or {}).get(name)
            if service is not None and service.served_name and service.served_name != asked:
                text = f'"{model.name}" asks "{provider.name}" for "{asked}", which serves "{service.served_name}"'
                fix = f'write model: "{service.served_name}", or set served_name of services.{name} in agentd.toml'
                place = deployment_place(model, number, "model")
                yield Problem("served-name", WARNING, place, asked, text, fix)
