"""`agentctl __complete KIND`: names for the shells' completions, one per line; silent when there is nothing to say."""

from __future__ import annotations

from typing import Any

from agentd.cli import table
from agentd.client import Client, Unreachable
from agentd.errors import AgentdError

SECONDS = 1.0


def complete(words: list[str]) -> int:
    try:
        found = _names(words[0] if words else "")
    except AgentdError:
        found = []
    for name in found:
        print(name)
    return 0


def _names(kind: str) -> list[str]:
    client = Client(timeout=SECONDS)
    if kind == table.CHANGES:
        return [change["id"] for change in client.get("/v1/changes?limit=20")["changes"]]
    if kind == table.SLOTS:
        return _of(client.get("/v1/slots")["slots"])
    if kind == table.PROFILES:
        from agentd import offline_profile

        return offline_profile.names()
    if kind not in (table.MODELS, table.SERVICES, table.STORES):
        return []
    try:
        if kind == table.STORES:
            return _of(client.get("/v1/redis")["stores"])
        return _of(client.get(f"/v1/{kind}")[kind])
    except Unreachable:
        return _configured(kind)


def _configured(kind: str) -> list[str]:
    from agentd import offline

    settings = offline.config().settings
    if kind == table.STORES:
        own = [name for name, service in settings.services.items() if service.role == "store"]
        return own + (["redis"] if settings.redis.url else [])
    return [name for name, found in settings.services.items() if kind == table.SERVICES or found.model is not None]


def _of(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items]
