"""What the checks share: the catalog with its names looked up, and the form of what they say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from agentd.core.gateway.facts import Facts
from agentd.core.gateway.model import MODELS, Catalog, Deployment, Kind, Model, Port, Provider
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.tree import Place
from agentd.findings import Severity

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

_SUGGESTED_OF = 2000
"""Of more names none is suggested: comparing with all of them for every wrong one would take seconds."""
_LISTED = 8
_EMPTY = "the file is empty"
Named = TypeVar("Named", Provider, Port, Model)


@dataclass(frozen=True, slots=True)
class Address:
    """Of a provider: `host` as written, in lower case; `port` the scheme's own where none is written."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def loopback(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def where(self) -> tuple[str, int]:
        """Equal for all ways to write this machine."""
        return ("loopback" if self.loopback else self.host, self.port)


class Context:
    """One run of the checks."""

    def __init__(self, catalog: Catalog, facts: Facts, shape: Sequence[Problem] = ()) -> None:
        self._shape = shape
        self.catalog = catalog
        self.policy = catalog.policy
        self.facts = facts
        self.providers: Mapping[str, Provider] = _first(catalog.providers)
        self.ports: Mapping[str, Port] = _first(catalog.ports)
        self.models: Mapping[str, Model] = _first(catalog.models)
        self._suggestions = 0

    @cached_property
    def canonical(self) -> Mapping[str, str]:
        """Name or alias -> the model's name."""
        found = {alias: model.name for model in reversed(self.catalog.models) for alias in model.aliases}
        return found | {name: name for name in self.models}

    @cached_property
    def served(self) -> frozenset[str]:
        """Names of the models that stay in the config: enabled, with a provider that is."""
        return frozenset(model.name for model in self.catalog.models if self.is_served(model))

    @cached_property
    def addresses(self) -> Mapping[str, Address]:
        """Provider -> where it answers; those without a usable address are missing."""
        found = {name: address_of(provider.base_url) for name, provider in self.providers.items()}
        return {name: address for name, address in found.items() if address is not None}

    def is_served(self, model: Model) -> bool:
        return model.enabled and any(self.is_up(deployment) for deployment in model.deployments)

    def is_up(self, deployment: Deployment) -> bool:
        """Its provider is not disabled; one that is missing is another check's matter."""
        provider = self.providers.get(deployment.provider)
        return provider is None or provider.enabled

    def used(self) -> Iterator[Provider]:
        """Enabled providers that an enabled model uses."""
        names = {d.provider for model in self.catalog.models if model.enabled for d in model.deployments}
        return (provider for provider in self.providers.values() if provider.enabled and provider.name in names)

    def service(self, provider: Provider) -> str:
        """agentd's service behind a provider, by its name or by its address; "" for none."""
        services = self.facts.services or {}
        if provider.service:
            return provider.service if provider.service in services else ""
        address = self.addresses.get(provider.name)
        if address is None or not address.loopback:
            return ""
        return self._by_address.get(address.where, "")

    @cached_property
    def service_addresses(self) -> Mapping[str, Address]:
        """agentd's service -> where it answers."""
        parsed = ((name, address_of(service.url)) for name, service in (self.facts.services or {}).items())
        return {name: address for name, address in parsed if address is not None}

    @cached_property
    def _by_address(self) -> Mapping[tuple[str, int], str]:
        return {address.where: name for name, address in self.service_addresses.items()}

    def policy_place(self, *keys: str) -> Place:
        """Where the first of these values stands that is written; else the file."""
        return next((self.policy.places[key] for key in keys if key in self.policy.places), Place(MODELS))

    def gateways(self) -> Iterator[tuple[str, Address]]:
        """agentd's services with the role gateway, and where they answer."""
        for name, address in self.service_addresses.items():
            if (self.facts.services or {})[name].role == "gateway":
                yield name, address

    def slot(self, provider: Provider) -> str:
        """The slot of the service behind a provider; "" for none."""
        service = (self.facts.services or {}).get(self.service(provider))
        return service.slot if service is not None else ""

    def is_broken(self, file: str, kind: str, name: str) -> bool:
        """What a name stands for is there, and reading it failed: that is said already. So is a file without its
        section. `kind`: "model"."""
        return any(
            problem.place.file == file
            and (f'{kind} "{name}"' in problem.text or problem.text in (_EMPTY, f"{file} has no {kind}s"))
            for problem in self._shape
        )

    def closest(self, word: str, known: Iterable[str]) -> str:
        """A name that is spelled almost so, or ""."""
        names = list(known)
        if len(names) > _SUGGESTED_OF or self._suggestions > _LISTED:
            return ""
        self._suggestions += 1
        return next(iter(get_close_matches(word, names, n=1)), "")


def place_of(thing: Provider | Model, *keys: str) -> Place:
    """Where the first of these fields stands that is written; else where the thing is named."""
    return next((thing.places[key] for key in keys if key in thing.places), thing.place)


def deployment_place(model: Model, number: int, *keys: str) -> Place:
    """The same of a deployment of a model."""
    found = (model.places[at] for key in keys if (at := f"deployments.{number}.{key}") in model.places)
    return next(found, model.deployments[number].place)


def address_of(url: str) -> Address | None:
    """None for what is not a url with a host."""
    parts = split(url)
    if parts is None or not parts.hostname:
        return None
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return Address(parts.scheme, parts.hostname, port, parts.path)


def split(url: str) -> SplitResult | None:
    """None for what cannot be taken apart."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def is_private(host: str) -> bool:
    """An address, or a name, that is not of the public Internet."""
    if "." not in host.rstrip(".") and ":" not in host:
        return True
    if host.rstrip(".").endswith((".local", ".lan", ".internal", ".home", ".localdomain", ".home.arpa", ".localhost")):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_private
    except ValueError:
        return False


def listed(names: Iterable[str]) -> str:
    """ "a, b, c"; of many the first ones."""
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(found[:_LISTED]) + more


def vllm(provider: Provider | None) -> bool:
    return provider is not None and provider.kind is Kind.VLLM


def _first(things: Iterable[Named]) -> Mapping[str, Named]:
    found: dict[str, Named] = {}
    for thing in things:
        found.setdefault(thing.name, thing)
    return found
