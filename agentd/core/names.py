"""What a user may call a unit: the service's name in the configuration, or the unit's own."""

from __future__ import annotations

from agentd.core.leaves import suggest
from agentd.core.schema import Settings
from agentd.errors import AgentdError


def unit_of(settings: Settings, name: str) -> str:
    """The unit's full name; one that is not configured is taken as it is. Raises AgentdError("service-not-found")."""
    service = settings.services.get(name)
    if service is not None:
        return service.unit
    if name.endswith(".service"):
        return name
    known = list(settings.services)
    hint = f"services: {', '.join(known) or 'none is configured'}; or give a unit in full, like {name}.service"
    raise AgentdError("service-not-found", f'no service "{name}"{suggest(name, known)}', hint=hint)


def configured_unit(settings: Settings, name: str) -> str:
    """The same, and it has to be the unit of a service. Raises AgentdError("service-not-found")."""
    unit = unit_of(settings, name)
    units = [service.unit for service in settings.services.values()]
    if unit in units:
        return unit
    hint = f"units: {', '.join(units) or 'none is configured'}"
    raise AgentdError(
        "service-not-found", f"no configured service has the unit {unit}{suggest(unit, units)}", hint=hint
    )
