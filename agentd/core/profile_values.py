"""What a service's `hardening` table says, as directives. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from agentd.core.quantities import format_bytes, parse_bytes
from agentd.core.schema import Service
from agentd.types import Scope

_MAX_OF_HIGH = Fraction(4, 3)
_PAGE = 4096


def single(service: Service) -> Mapping[str, str]:
    """Directives of which a service has one value, as its configuration says them."""
    wishes = service.hardening
    high, most = _memory(wishes.memory_high, wishes.memory_max)
    found = {
        "MemoryHigh": high,
        "MemoryMax": most,
        "MemorySwapMax": wishes.memory_swap_max,
        "CPUQuota": wishes.cpu_quota,
        "CPUWeight": _number(wishes.cpu_weight),
        "IOWeight": _number(wishes.io_weight),
        "TasksMax": _number(wishes.tasks_max),
        "LimitNOFILE": _number(wishes.open_files),
    }
    return {key: value for key, value in found.items() if value}


def additional(service: Service, scope: Scope) -> Mapping[str, str]:
    """Values that come on top of the profile's own. IPAddressAllow= has a meaning only where a deny list has."""
    wishes = service.hardening
    found = {
        "ReadWritePaths": " ".join(map(path_word, wishes.write_paths)),
        "InaccessiblePaths": " ".join(map(path_word, wishes.hide_paths)),
    }
    if scope is Scope.SYSTEM and service.network != "any":
        found["IPAddressAllow"] = " ".join(wishes.allow_addresses)
    return {key: value for key, value in found.items() if value}


def path_word(path: str) -> str:
    """One path of a path list; that it may be missing is no reason not to start."""
    if path.startswith("~/"):
        path = f"%h/{path[2:]}"
    if any(character in " \t\"'\\" for character in path):
        return '"-' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"-{path}"


def _memory(high: str, most: str) -> tuple[str, str]:
    """MemoryHigh= alone raises MemoryMax= with it: the profile's default could be less."""
    return (high, _scaled(high, _MAX_OF_HIGH)) if high and not most else (high, most)


def _scaled(limit: str, factor: Fraction) -> str:
    if limit == "infinity":
        return limit
    if limit.endswith("%"):
        return f"{float(min(round(Fraction(limit[:-1]) * factor, 1), Fraction(100))):g}%"
    return format_bytes(int(parse_bytes(limit) * factor) // _PAGE * _PAGE)


def _number(value: int) -> str:
    return str(value) if value else ""
