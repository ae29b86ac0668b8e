"""Which models live in a slot of agentd's, and so may be absent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from agentd.core.gateway.generated import SlotModel
from agentd.core.gateway.model import Catalog, Provider

_LOOPBACK = "loopback"
_PORTS = {"http": 80, "https": 443}


def slot_models(catalog: Catalog, services: Mapping[str, tuple[str, str]]) -> Mapping[str, SlotModel]:
    """Model -> its service and slot. `services`: agentd's service -> (its url, its slot; "" for none).

    A provider's service is the one that it names, else the one at its address. A model with a deployment elsewhere
    too is always there, so it is none of these.
    """
    by_address = {
        address: name for name in sorted(services, reverse=True) if (address := _address(services[name][0])) is not None
    }
    behind = {p.name: _service(p, services, by_address) for p in catalog.providers if p.enabled}
    found = {}
    for model in catalog.models:
        names = {behind[d.provider] for d in model.deployments if d.provider in behind}
        name = names.pop() if len(names) == 1 else ""
        slot = services[name][1] if name in services else ""
        if slot and model.name not in found:
            found[model.name] = SlotModel(name, slot)
    return found


def _service(
    provider: Provider, services: Mapping[str, tuple[str, str]], by_address: Mapping[tuple[str, int], str]
) -> str:
    if provider.service:
        return provider.service if provider.service in services else ""
    address = _address(provider.base_url)
    return by_address.get(address, "") if address is not None else ""


def _address(url: str) -> tuple[str, int] | None:
    """(host, port), equal for all ways to write this machine; None for what is no url."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if not host:
        return None
    local = host in ("localhost", "::1") or host.startswith("127.")
    return (_LOOPBACK if local else host, port)
