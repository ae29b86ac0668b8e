"""What no value of [redis] can say alone: one name for one store, one source of the password, some persistence."""

from __future__ import annotations

from typing import Protocol

from agentd.core.addresses import Address, AddressError, parse_url
from agentd.core.layers import KeyPath
from agentd.core.quantities import format_seconds
from agentd.core.schema import Service, Settings

STORE = "redis"
"""What commands call the store of redis.url."""
SHORTEST = 600.0
"""Seconds between two backups or drills: each reads and writes the whole data set."""

_URL_FORM = "redis://HOST:PORT or unix:///PATH"


class Report(Protocol):
    def __call__(self, path: KeyPath, message: str, value: object = None, allowed: str = "") -> None: ...


def check(settings: Settings, report: Report) -> None:
    policy = settings.redis
    _url(settings, report)
    if policy.password_file and policy.password_credential:
        report(("redis", "password_credential"), "is given beside password_file, and there is only one password")
    if not policy.appendonly and not policy.save:
        message = "is empty while appendonly is false, which is no persistence at all"
        report(("redis", "save"), message, policy.save, 'save points like "3600 1 300 100", or appendonly = true')
    for key in ("backup_every", "drill_every"):
        every = getattr(policy, key)
        if 0 < every < SHORTEST:
            bound = format_seconds(SHORTEST)
            report(("redis", key), f"is less than {bound}", format_seconds(every), f"0 for never, or at least {bound}")


def _url(settings: Settings, report: Report) -> None:
    at, url = ("redis", "url"), settings.redis.url
    ours = _address(url)
    if ours is None:
        return
    if not ours.redis:
        report(at, "must be a redis url", url, _URL_FORM)
        return
    stores = {name: service for name, service in settings.services.items() if service.role == "store"}
    if STORE in stores:
        report(at, f'is called "{STORE}" in commands, as services.{STORE} is; leave it out or rename that service', url)
        return
    same = next((name for name, service in stores.items() if _place(service) == _key(ours)), None)
    if same is not None:
        report(at, f"is the address of services.{same}; leave it out", url)


def _place(service: Service) -> tuple[str, int, str] | None:
    address = _address(service.url)
    return _key(address) if address else None


def _key(address: Address) -> tuple[str, int, str]:
    return ("loopback" if address.loopback else address.host, address.port, address.path)


def _address(url: str) -> Address | None:
    try:
        return parse_url(url) if url else None
    except AddressError:  # reported with the value
        return None
