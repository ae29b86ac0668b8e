"""Everything that systemd says of a unit or of itself, and the bodies of transient units."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agentd.adapters.bus import CALL_TIMEOUT, Bus
from agentd.adapters.systemd_props import MANAGER, NAME, PATH, PROPERTIES, SERVICE, UNIT, checked_name, unit_path
from agentd.ports_hardening import TransientProperty


async def unit_properties(bus: Bus, unit: str, timeout: float = CALL_TIMEOUT) -> dict[str, Any]:
    """Of the Unit interface, and for services of the Service interface too."""
    path, doing = unit_path(checked_name(unit)), f"read the properties of {unit}"
    interfaces = [UNIT, SERVICE] if unit.endswith(".service") else [UNIT]
    found = await asyncio.gather(*(_all(bus, path, interface, timeout, doing) for interface in interfaces))
    return {name: value for part in found for name, value in part.items()}


async def manager_properties(bus: Bus, timeout: float = CALL_TIMEOUT) -> dict[str, Any]:
    return await _all(bus, PATH, MANAGER, timeout, "read the properties of systemd")


def transient_body(bus: Bus, unit: str, properties: Sequence[TransientProperty]) -> list[Any]:
    """Arguments of StartTransientUnit, "ssa(sv)a(sa(sv))": mode "fail", no further units."""
    rows = [[name, bus.variant(signature, _lists(value))] for name, signature, value in properties]
    return [checked_name(unit), "fail", rows, []]


async def _all(bus: Bus, path: str, interface: str, timeout: float, doing: str) -> dict[str, Any]:
    target = (NAME, path, PROPERTIES, "GetAll")
    (found,) = await bus.call(*target, "s", [interface], timeout=timeout, doing=doing)
    return dict(found)


def _lists(value: object) -> object:
    """D-Bus structures are lists for both libraries."""
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return value
