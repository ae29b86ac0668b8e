"""Checks of the port registry: against itself, against the providers, and against who really listens."""

from __future__ import annotations

from collections.abc import Iterator

from agentd.core.gateway.checks_context import ERROR, INFO, WARNING, Context, place_of, vllm
from agentd.core.gateway.model import GATEWAY_PORT, PORTS, Port, Provider
from agentd.core.gateway.problems import Problem

LITELLM_DEFAULT = 4000
_EVERYWHERE = ("0.0.0.0", "::", "", "*")


def port_conflict(context: Context) -> Iterator[Problem]:
    yield from _twice(context)
    yield from _elsewhere(context)
    yield from _same_address(context)


def _twice(context: Context) -> Iterator[Problem]:
    by_number: dict[int, list[Port]] = {}
    for port in context.catalog.ports:
        others = by_number.setdefault(port.number, [])
        other = next((other for other in others if _overlap(port.host, other.host)), None)
        if other is not None and other.name != port.name:
            text = (
                f'the ports "{other.name}" and "{port.name}" are both {port.number}; "{other.name}" is at {other.place}'
            )
            fix = f'give "{port.name}" a number that is free'
            yield Problem("port-conflict", ERROR, port.place, str(port.number), text, fix)
        if len(others) < 8:  # Enough to find every conflict once; a registry full of one number stays quick.
            others.append(port)


def _overlap(one: str, other: str) -> bool:
    return one == other or one in _EVERYWHERE or other in _EVERYWHERE or (_local(one) and _local(other))


def _local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _registered(context: Context) -> dict[int, Port]:
    """Ports of this machine by number."""
    found: dict[int, Port] = {}
    for port in context.catalog.ports:
        if port.host in _EVERYWHERE or _local(port.host):
            found.setdefault(port.number, port)
    return found


def _elsewhere(context: Context) -> Iterator[Problem]:
    """A base_url on a port that the registry gives to another one: the name is neither the provider's nor its
    service's, and no part of either."""
    ports = _registered(context)
    for provider in context.providers.values():
        address = context.addresses.get(provider.name)
        if address is None or not address.loopback or address.port not in ports:
            continue
        port, place = ports[address.port], place_of(provider, "base_url", "port")
        if port.name == GATEWAY_PORT:
            text = f'"{provider.name}" is the gateway itself (port {port.number}): each request would come back to it'
            fix = "write the address of the model server"
            severity = ERROR if provider.enabled else WARNING
            yield Problem("port-conflict", severity, place, provider.base_url, text, fix)
        elif not provider.port and not _related(port.name, provider):
            text = (
                f'"{provider.name}" uses port {port.number}, which the registry gives to "{port.name}" ({port.place})'
            )
            fix = f'correct base_url, or write port: {port.name} instead of it if "{port.name}" is meant'
            yield Problem("port-conflict", WARNING, place, provider.base_url, text, fix)


def _related(name: str, provider: Provider) -> bool:
    ours = (provider.name.lower(), provider.service.lower() or provider.name.lower())
    return any(name.lower() in own or own in name.lower() for own in ours)


def _same_address(context: Context) -> Iterator[Problem]:
    seen: dict[tuple[object, ...], Provider] = {}
    for provider in context.providers.values():
        address = context.addresses.get(provider.name)
        if address is None or not provider.enabled:
            continue
        key = (address.where, address.path.rstrip("/"), provider.api, provider.key, repr(sorted(provider.params)))
        other = seen.setdefault(key, provider)
        if other is not provider:
            text = f'"{provider.name}" and "{other.name}" ({other.place}) are the same server'
            fix = "correct the address of one of them, or use one provider for both"
            place = place_of(provider, "base_url", "port")
            yield Problem("port-conflict", WARNING, place, provider.base_url, text, fix)


def unregistered_port(context: Context) -> Iterator[Problem]:
    """A provider on this machine whose port the registry does not have."""
    ports = _registered(context)
    for provider in context.providers.values():
        address = context.addresses.get(provider.name)
        if address is None or not address.loopback or not address.port or provider.port or address.port in ports:
            continue
        text = f'port {address.port} of "{provider.name}" is not in the registry'
        fix = f'add "{provider.name}: {address.port}" to {PORTS}, and write port: {provider.name} instead of base_url'
        place = place_of(provider, "base_url")
        yield Problem("unregistered-port", INFO, place, provider.base_url, text, fix)


def port_4000(context: Context) -> Iterator[Problem]:
    port = context.ports.get(GATEWAY_PORT)
    if port is not None and port.number == LITELLM_DEFAULT:
        text = "the gateway is on port 4000: when it is taken, LiteLLM listens on a random port and says nothing"
        fix = "take another port, for instance 4001, here and in litellm.socket and the clients"
        yield Problem("port-4000", WARNING, port.place, "4000", text, fix)


def port_in_use(context: Context) -> Iterator[Problem]:
    listeners = context.facts.listeners
    if listeners is None:
        return
    units = _units(context)
    for port in context.catalog.ports:
        holder = listeners.get(port.number)
        unit = port.unit or units.get(port.number, "")
        if holder is None or not unit or not holder.pid or _same_unit(holder.unit, unit) or _manager(holder.comm):
            continue
        who = f"{holder.comm} (pid {holder.pid}{', ' + holder.unit if holder.unit else ''})"
        text = f'port {port.number} of "{port.name}" belongs to {unit}, but {who} listens on it'
        fix = f"stop {holder.unit or f'process {holder.pid}'}, or give one of the two another port"
        yield Problem("port-in-use", WARNING, port.place, str(port.number), text, fix)


def _units(context: Context) -> dict[int, str]:
    """By agentd.toml: port -> the unit of the service that answers there; of slot models that share one port, none."""
    found: dict[int, str] = {}
    for name, address in context.service_addresses.items():
        unit = (context.facts.services or {})[name].unit
        if address.loopback:
            found[address.port] = "" if address.port in found else unit
    return found


def _same_unit(one: str, other: str) -> bool:
    """litellm.service serves on the socket of litellm.socket, and litellm-standby.service stands in for it."""
    return _stem(one) == _stem(other)


def _stem(unit: str) -> str:
    return unit.rpartition(".")[0].removesuffix("-standby") or unit


def _manager(comm: str) -> bool:
    """systemd itself holds the socket of a unit that it starts at the first connection."""
    return comm in ("systemd", "(systemd)")


def unreachable_provider(context: Context) -> Iterator[Problem]:
    reachable = context.facts.reachable
    if reachable is None:
        return
    for provider in context.catalog.providers:
        reason = reachable.get(provider.name, "")
        if not reason or not provider.enabled:
            continue
        place = place_of(provider, "base_url", "port")
        text = f'"{provider.name}" does not answer: {reason}'
        slot = context.slot(provider) if vllm(provider) else ""
        resident = (context.facts.resident or {}).get(slot)
        if slot and (context.facts.resident is None or resident != context.service(provider)):
            holds = f"holds {resident}" if resident else "does not hold it"
            text += f"; its slot {slot} {holds}" if context.facts.resident is not None else f"; it is of slot {slot}"
            fix = f"none is needed; agentctl switch-model {context.service(provider)} makes it resident"
            yield Problem("unreachable-provider", INFO, place, provider.base_url, text, fix)
        else:
            fix = "start it, correct its address, or set status: disabled"
            yield Problem("unreachable-provider", WARNING, place, provider.base_url, text, fix)
