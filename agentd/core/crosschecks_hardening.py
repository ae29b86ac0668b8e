"""What no value of the hardening can say alone: profiles that exist and end, limits that agree, settings that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agentd.core.layers import KeyPath
from agentd.core.leaves import quoted, suggest
from agentd.core.profile_values import single
from agentd.core.quantities import parse_bytes
from agentd.core.schema import Profile, Service, Settings
from agentd.core.schema_hardening import NO_PROFILE, PACKAGED, Hardening

_NAMED: Mapping[str, str] = {
    "MemoryHigh": "memory_high",
    "MemoryMax": "memory_max",
    "MemorySwapMax": "memory_swap_max",
    "CPUQuota": "cpu_quota",
    "CPUWeight": "cpu_weight",
    "IOWeight": "io_weight",
    "TasksMax": "tasks_max",
    "LimitNOFILE": "open_files",
}


class Report(Protocol):
    def __call__(self, path: KeyPath, message: str, value: object = None, allowed: str = "") -> None: ...

    def known_bad(self, path: KeyPath) -> bool: ...


def check(settings: Settings, report: Report) -> None:
    for name, profile in settings.profiles.items():
        if name in PACKAGED:
            report(
                ("profiles", name), f'is the name of a packaged profile; choose another one, and set base = "{name}"'
            )
        if name == NO_PROFILE:
            report(("profiles", name), "means that a service has no profile; choose another name")
        if profile.base:
            _known(("profiles", name, "base"), profile.base, (*PACKAGED, *settings.profiles), report)
        _twice(("profiles", name), {**profile.security, **profile.resources}, profile.unset, report)
    _cycles(settings.profiles, report)
    for name, service in settings.services.items():
        at = ("services", name)
        if service.profile:
            _known((*at, "profile"), service.profile, (*PACKAGED, *settings.profiles, NO_PROFILE), report)
        _hardening((*at, "hardening"), service, report)


def _known(at: KeyPath, name: str, names: tuple[str, ...], report: Report) -> None:
    if name not in names and not report.known_bad(("profiles",)) and not report.known_bad(("profiles", name)):
        report(at, f"is not a profile{suggest(name, names)}", name, quoted(names))


def _cycles(profiles: Mapping[str, Profile], report: Report) -> None:
    done: set[str] = set()
    for start in profiles:
        way: list[str] = []
        name = start
        while name in profiles and name not in done and name not in way:
            way.append(name)
            name = profiles[name].base
        if name in way:
            cycle = [*way[way.index(name) :], name]
            report(("profiles", way[-1], "base"), f"closes a cycle: {' -> '.join(cycle)}", name)
        done.update(way)


def _hardening(at: KeyPath, service: Service, report: Report) -> None:
    wishes = service.hardening
    if service.profile == NO_PROFILE and wishes != Hardening():
        report(at, f'is not used: the profile is "{NO_PROFILE}"')
        return
    _memory(at, wishes, report)
    _twice(at, wishes.set, wishes.unset, report)
    for key in single(service):
        if key in wishes.set and not (key == "MemoryMax" and not wishes.memory_max):
            report((*at, "set", key), f"is also set by {_NAMED[key]}")
    if wishes.allow_addresses and service.network == "any":
        report(
            (*at, "allow_addresses"),
            'has no meaning while network is "any"',
            allowed='with "localhost", "private" or "internet"',
        )


def _twice(at: KeyPath, changed: Mapping[str, object], unset: tuple[str, ...], report: Report) -> None:
    for key in unset:
        if key in changed:
            report((*at, "unset"), "names a directive that is also set", key)


def _memory(at: KeyPath, wishes: Hardening, report: Report) -> None:
    high, most = _size(wishes.memory_high), _size(wishes.memory_max)
    if high is not None and most is not None and high > most:
        report((*at, "memory_high"), f"is more than memory_max, which is {wishes.memory_max}", wishes.memory_high)


def _size(limit: str) -> int | None:
    """None where it cannot be compared without knowing the machine."""
    return None if not limit or limit == "infinity" or limit.endswith("%") else parse_bytes(limit)
