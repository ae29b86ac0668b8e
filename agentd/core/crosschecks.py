"""What no value can say alone: references, roles, addresses, cycles.

Works on a draft in which a value that was already reported is its default; the report itself keeps quiet about those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agentd.core import crosschecks_hardening, crosschecks_redis, crosschecks_runtimes
from agentd.core.addresses import Address, AddressError, parse_listen, parse_url
from agentd.core.layers import KeyPath, format_key
from agentd.core.leaves import quoted, suggest
from agentd.core.probes import HANDLERS, effective_probes, role_has_probes
from agentd.core.quantities import format_seconds
from agentd.core.schema import Probe, Service, Settings
from agentd.types import ProbeKind

OWN_UNIT = "agentd.service"


class Report(Protocol):
    """Notes a problem at `path`, unless that value is known to be bad by itself: then that was reported already."""

    def __call__(self, path: KeyPath, message: str, value: object = None, allowed: str = "") -> None: ...

    def known_bad(self, path: KeyPath) -> bool: ...

    def known_bad_below(self, path: KeyPath) -> bool:
        """The value or anything in it."""
        ...


def cross_check(settings: Settings, report: Report) -> None:
    """Report everything that is wrong between the values."""
    for name, service in settings.services.items():
        _role(name, service, report)
        _url(name, service, report)
        _depends_on(name, service, settings.services, report)
        for kind in ProbeKind:
            _probe(name, service, kind, report)
        _gate(name, service, report)
        _at_least(("services", name, "recovery", "max"), service.recovery.max, "base", service.recovery.base, report)
    _units(settings, report)
    _model_slots(settings, report)
    _tensor_parallel(settings, report)
    _slots(settings, report)
    _ports(settings, report)
    _cycles(settings, report)
    crosschecks_hardening.check(settings, report)
    crosschecks_redis.check(settings, report)
    crosschecks_runtimes.check(settings, report)


def _role(name: str, service: Service, report: Report) -> None:
    at = ("services", name)
    if report.known_bad((*at, "role")) or report.known_bad((*at, "model")):
        return
    if service.role == "model" and service.model is None:
        report((*at, "model"), 'is required for role "model"', allowed="a table with at least slot and served_name")
    if service.role != "model" and service.model is not None:
        report((*at, "model"), f'is only for role "model", the role is "{service.role}"')


def _url(name: str, service: Service, report: Report) -> None:
    at = ("services", name, "url")
    if report.known_bad(at) or report.known_bad(("services", name, "role")):
        return
    address = _address(service)
    if address is None:
        if role_has_probes(service.role):
            report(at, f'is required for role "{service.role}"', allowed=_url_form(service.role))
        return
    if service.role == "store" and not address.redis:
        report(at, 'must be a redis url for role "store"', service.url, _url_form("store"))
    if service.role in ("model", "runtime", "gateway") and not address.http:
        report(at, f'must be an http url for role "{service.role}"', service.url, _url_form(service.role))
    elif service.role == "model" and address.path:
        report(at, "must not have a path, agentd adds /health and /v1/models", service.url, _url_form("model"))
    elif service.role in ("runtime", "gateway") and address.socket:
        report(at, f'must have a host and a port for role "{service.role}"', service.url, _url_form(service.role))
    elif service.role == "model" and not address.explicit_port:
        report(at, "needs the port that the model listens on", service.url, _url_form("model"))


def _url_form(role: str) -> str:
    if role == "model":
        return "http://HOST:PORT or http+unix:///PATH.sock"
    return "redis://HOST:PORT or unix:///PATH" if role == "store" else "http://HOST:PORT"


def _depends_on(name: str, service: Service, known: Mapping[str, Service], report: Report) -> None:
    at = ("services", name, "depends_on")
    for other in service.depends_on:
        if other == name:
            report(at, "names the service itself", other)
        elif other in known:
            if _same_slot(service, known[other]):
                report(at, "names a model of the same slot, only one of them runs at a time", other)
        elif not report.known_bad(("services", other)):
            others = [service for service in known if service != name]
            report(
                at,
                f"is not a service{suggest(other, others)}",
                other,
                quoted(others) or "none (no other service is configured)",
            )


def _probe(name: str, service: Service, kind: ProbeKind, report: Report) -> None:
    at = ("services", name, kind.value)
    probe: Probe | None = getattr(service, kind.value)
    if probe is None or report.known_bad(("services", name, "role")):
        return
    handlers = [handler for handler in (*HANDLERS, "none") if getattr(probe, handler)]
    if len(handlers) > 1:
        report(at, f"has more than one check: {', '.join(handlers)}", allowed="one of http, tcp, redis, exec, none")
    elif not handlers and not report.known_bad_below(at):
        report(at, "has no check", allowed="one of http, tcp, redis, exec, or none = true")
    if kind is not ProbeKind.READINESS and probe.success_threshold != 1:
        report((*at, "success_threshold"), f"must be 1 for a {kind.value} probe", probe.success_threshold)
    if handlers and not report.known_bad(("services", name, "url")):
        _probe_address(at, probe, _address(service), report)


def _probe_address(at: KeyPath, probe: Probe, address: Address | None, report: Report) -> None:
    if probe.http and probe.http.path.startswith("/") and not (address and address.http):
        report((*at, "http"), "needs an http url of the service, or a full url as path")
    if probe.tcp and not (address and address.host):
        report((*at, "tcp"), "needs a url of the service with host and port")
    if probe.redis and not (address and address.redis):
        report((*at, "redis"), "needs a redis:// or unix:// url of the service")


def _gate(name: str, service: Service, report: Report) -> None:
    if service.gate and ProbeKind.READINESS not in effective_probes(service):
        at = ("services", name)
        if not any(report.known_bad_below((*at, key)) for key in ("role", "readiness")):
            report((*at, "gate"), "needs a readiness probe", True)


def _units(settings: Settings, report: Report) -> None:
    owner: dict[str, str] = {}
    for name, service in settings.services.items():
        at = ("services", name, "unit")
        first = owner.setdefault(service.unit, name)
        if service.unit == OWN_UNIT:
            report(at, "is the unit of agentd itself", service.unit)
        elif first != name:
            report(at, f"is already the unit of services.{first}", service.unit)


def _model_slots(settings: Settings, report: Report) -> None:
    for name, service in settings.services.items():
        if service.model and service.model.slot not in settings.slots:
            at = ("services", name, "model", "slot")
            slot = service.model.slot
            if not report.known_bad(("slots",)) and not report.known_bad(("slots", slot)):
                report(
                    at,
                    f"is not a slot{suggest(slot, list(settings.slots))}",
                    slot,
                    quoted(list(settings.slots)) or "none (no slot is configured)",
                )


def _tensor_parallel(settings: Settings, report: Report) -> None:
    """More GPUs than the slot has: vLLM would say so after the model before has been stopped."""
    for name, service in settings.services.items():
        model = service.model
        slot = settings.slots.get(model.slot) if model else None
        if model is None or slot is None or report.known_bad(("slots", model.slot)):
            continue
        at, other = ("services", name, "model"), model.fallback.tensor_parallel
        if model.tensor_parallel > len(slot.gpus) and not report.known_bad(("slots", model.slot, "gpus")):
            report((*at, "tensor_parallel"), _too_many("gpus", len(slot.gpus)), model.tensor_parallel)
        if slot.fallback_gpus and other > len(slot.fallback_gpus):
            report((*at, "fallback", "tensor_parallel"), _too_many("fallback_gpus", len(slot.fallback_gpus)), other)


def _too_many(key: str, count: int) -> str:
    return f"is more than the GPUs of its slot: its {key} are {count}"


def _slots(settings: Settings, report: Report) -> None:
    runtimes = [name for name, service in settings.services.items() if service.role == "runtime"]
    for name, slot in settings.slots.items():
        at = ("slots", name)
        models, default = settings.models(name), slot.default
        if default and default not in models and not _unsure(default, report):
            message = f"is not a model of this slot{suggest(default, models)}"
            report((*at, "default"), message, default, quoted(models) or "none (no model has this slot)")
        elif default and not settings.services[default].enabled and not _unsure(default, report):
            off = format_key(("services", default, "enabled"))
            on = quoted([model for model in models if settings.services[model].enabled])
            report((*at, "default"), f"is switched off: {off} is false", default, f'{on or "none"}, or ""')
        if slot.fallback_gpus and not set(slot.fallback_gpus) < set(slot.gpus):
            some = "some of gpus, not all: " + ", ".join(map(str, slot.gpus))
            report((*at, "fallback_gpus"), "are not fewer of the slot's GPUs", list(slot.fallback_gpus), some)
        for other in slot.evict:
            if other not in runtimes and not _unsure(other, report):
                message = f'is not a service with role "runtime"{suggest(other, runtimes)}'
                report((*at, "evict"), message, other, quoted(runtimes) or "none (no service has this role)")
        _at_least((*at, "cooldown_max"), slot.cooldown_max, "cooldown", slot.cooldown, report)


def _at_least(at: KeyPath, value: float, other: str, bound: float, report: Report) -> None:
    if value < bound and not report.known_bad((*at[:-1], other)):
        report(at, f"is less than {other}, which is {format_seconds(bound)}", format_seconds(value))


def _unsure(name: str, report: Report) -> bool:
    """What the service is depends on a value that is itself wrong."""
    at = ("services", name)
    keys = ((), ("role",), ("model",), ("model", "slot"))
    return report.known_bad(("services",)) or any(report.known_bad((*at, *key)) for key in keys)


def _ports(settings: Settings, report: Report) -> None:
    """A model's port is its own; only models of one slot may share it, for they never run at once."""
    taken: dict[int, str] = {}
    if settings.daemon.listen and not report.known_bad(("daemon", "listen")):
        taken[parse_listen(settings.daemon.listen)[1]] = "daemon.listen"
    first_of: dict[tuple[str, int], tuple[str, Service]] = {}
    sockets: dict[str, str] = {}
    for name, service in settings.services.items():
        address = _address(service)
        at = ("services", name, "url")
        if address is not None and address.socket:
            first = sockets.setdefault(address.socket, name)
            if first != name:
                report(at, f"has the socket of services.{first}", service.url)
        if address is None or not address.port:
            continue
        host = "loopback" if address.loopback else address.host
        other_name, other = first_of.setdefault((host, address.port), (name, service))
        if address.loopback and address.port in taken:
            report(at, f"has the port of {taken[address.port]}", service.url)
        elif other_name != name and (service.model or other.model) and not _same_slot(service, other):
            report(at, f"has the port of services.{other_name}", service.url)


def _same_slot(one: Service, other: Service) -> bool:
    return one.model is not None and other.model is not None and one.model.slot == other.model.slot


def _cycles(settings: Settings, report: Report) -> None:
    done: set[str] = set()
    for start in settings.services:
        if start not in done:
            _walk(start, done, settings, report)


def _walk(start: str, done: set[str], settings: Settings, report: Report) -> None:
    """Depth first; a dependency that is on the way down already closes a cycle."""
    trail = {start: iter(settings.services[start].depends_on)}
    while trail:
        name, rest = next(reversed(trail.items()))
        dependency = next(rest, None)
        if dependency is None:
            done.add(name)
            del trail[name]
        elif dependency in trail:
            way = list(trail)
            cycle = [*way[way.index(dependency) :], dependency]
            if len(cycle) > 2:  # a service that names itself is already reported
                report(("services", name, "depends_on"), f"closes a cycle: {' -> '.join(cycle)}")
        elif dependency in settings.services and dependency not in done:
            trail[dependency] = iter(settings.services[dependency].depends_on)


def _address(service: Service) -> Address | None:
    try:
        return parse_url(service.url) if service.url else None
    except AddressError:  # reported with the value
        return None
