"""Which keys there are, and every place that has to hold the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from agentd.core.gateway.client_file import split
from agentd.core.gateway.keys import PREFIX
from agentd.core.gateway.model import Catalog, Kind, Policy, Provider
from agentd.core.schema import Service, Settings
from agentd.managers.gateway.rotation import MASTER, Holder

SERVER_VARIABLE = "VLLM_API_KEY"
"""What vLLM reads its key from."""


class Side(StrEnum):
    GATEWAY = "gateway"
    SERVER = "server"
    """A model server, which checks the key."""
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Place:
    """`service`: of a server, agentd's name of it."""

    side: Side
    holder: Holder
    service: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """`name`: "master", or the variable in the gateway's environment."""

    name: str
    places: tuple[Place, ...]
    strangers: tuple[str, ...] = ()
    """Providers of which nobody knows where their server has its key."""

    @property
    def prefix(self) -> str:
        return PREFIX if self.name == MASTER else ""

    def holders(self, *sides: Side) -> tuple[Holder, ...]:
        return tuple(dict.fromkeys(place.holder for place in self.places if place.side in sides))

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place.service for place in self.places if place.service))


def keyring(
    settings: Settings,
    catalog: Catalog | None,
    env_file: str,
    clients: tuple[str, ...],
    unit_files: Mapping[str, Mapping[str, frozenset[str]]],
) -> tuple[Key, ...]:
    """The master key first, then one for each variable that vLLM providers name. Paths are absolute already.

    `unit_files`: service -> environment files of its unit -> the variables in them.
    """
    variable = catalog.policy.master_key if catalog is not None else Policy().master_key
    places = [Place(Side.GATEWAY, Holder(env_file, variable))]
    places += [Place(Side.CLIENT, Holder(*split(entry, variable))) for entry in clients]
    found = [Key(MASTER, tuple(places))]
    asked = [p for p in catalog.providers if p.kind is Kind.VLLM and p.key] if catalog is not None else []
    for name in dict.fromkeys(provider.key for provider in asked):
        own = [(p, _servers(settings, p, unit_files)) for p in asked if p.key == name]
        servers = dict.fromkeys(place for _, some in own for place in some)
        strangers = tuple(p.name for p, some in own if p.enabled and not some)
        found.append(Key(name, (Place(Side.GATEWAY, Holder(env_file, name)), *servers), strangers))
    return tuple(found)


def service_of(settings: Settings, provider: Provider) -> str:
    """agentd's service behind a provider: as it says, else the one with its address; "" for none."""
    if provider.service:
        return provider.service if provider.service in settings.services else ""
    address = _address(provider.base_url)
    return next((n for n, s in settings.services.items() if address and _address(s.url) == address), "")


def _servers(
    settings: Settings, provider: Provider, unit_files: Mapping[str, Mapping[str, frozenset[str]]]
) -> list[Place]:
    name = service_of(settings, provider)
    if not name:
        return []
    service: Service = settings.services[name]
    places = []
    if service.model is not None and service.model.api_key_file:
        places.append(Place(Side.SERVER, Holder(service.model.api_key_file, service.model.api_key_name), name))
    files = unit_files.get(name, {})
    holding = [path for path, names in files.items() if SERVER_VARIABLE in names]
    if not holding and not places:
        holding = list(files)[:1]
    places += [Place(Side.SERVER, Holder(path, SERVER_VARIABLE), name) for path in holding]
    return places


def _address(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return (host, port) if host and port else None
