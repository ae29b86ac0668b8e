"""What systemd shows as STATUS=, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.types import Health, ServiceStatus, SlotStatus

BAD = (Health.FAILED, Health.UNREADY, Health.MISSING)


def status_line(slots: Sequence[SlotStatus], services: Sequence[ServiceStatus], *, config_invalid: bool) -> str:
    text = "; ".join(f"{s.name}: {s.resident or s.state}" for s in slots) or "no slot configured"
    bad = [service.name for service in services if service.enabled and service.health in BAD]
    if bad:
        text += f"; not ready: {', '.join(bad)}"
    if config_invalid:
        text += "; the configuration on disk is invalid, the previous one is in force"
    return text
