"""Which stores the configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentd.core.addresses import AddressError, parse_url
from agentd.core.schema import Settings

BESIDE = "redis"
"""Name of the store that `redis.url` adds."""


@dataclass(frozen=True, slots=True)
class Named:
    name: str
    unit: str
    url: str


def stores(settings: Settings) -> Iterator[Named]:
    """Every service with role "store" that speaks Redis, then the one beside them."""
    for name, service in settings.services.items():
        if service.role == "store" and _speaks_redis(service.url):
            yield Named(name, service.unit, service.url)
    if settings.redis.url:
        yield Named(BESIDE, "", settings.redis.url)


def _speaks_redis(url: str) -> bool:
    try:
        return parse_url(url).redis
    except AddressError:
        return False
