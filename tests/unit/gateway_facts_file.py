"""Facts as a test writes them: facts.yaml beside the sources. Keys have names there; the values are made here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentd.core.gateway.facts import ClientFact, Facts, FileFact, Listener, Secrets, ServiceFact
from agentd.core.gateway.header import with_header
from agentd.core.gateway.install import Install
from agentd.core.gateway.yaml_text import parse

STRONG = {
    "strong": "sk-" + "J4nWmTq8Zr1cVx7LbYd0HsEu5GkPa2Oi9fNtQwRj3Bv",
    "other": "sk-" + "Uz6XhKe2mFp9AsLd3TcQy7RwGb1NjVo5IiZn8MxCk0E",
    "bare": "J4nWmTq8Zr1cVx7LbYd0HsEu5GkPa2Oi9fNtQwRj3Bv",
}
"""What a set calls by name; everything else is the key itself."""
CONFIG, ENV_FILE = "/home/me/litellm-unified.yaml", "/home/me/litellm.env"
BODY = "model_list: []\n"


def read_facts(text: str, sources: Mapping[str, str]) -> Facts:
    """`sources`: file -> sha256."""
    raw: dict[str, Any] = parse(text, "facts.yaml").plain()  # type: ignore[assignment]
    keys = raw.get("environment")
    install = raw.get("install")
    listeners, clients = raw.get("listeners"), raw.get("clients", {})
    services, service_keys, own = raw.get("services"), raw.get("service_keys"), raw.get("agentd_keys")
    return Facts(
        env_file=ENV_FILE,
        environment=None if keys is None else secrets(keys),
        clients={path: ClientFact(c["variable"], STRONG.get(c["key"], c["key"])) for path, c in clients.items()},
        service_keys=None if service_keys is None else secrets(service_keys),
        agentd_keys=None if own is None else secrets(own),
        files={path: file_fact(**values) for path, values in raw.get("files", {}).items()},
        listeners=None if listeners is None else {port: Listener(**of) for port, of in listeners.items()},
        reachable=raw.get("reachable"),
        resident=raw.get("resident"),
        generated=generated(raw["generated"], sources) if "generated" in raw else None,
        config=CONFIG,
        install=None if install is None else read_install(**install),
        services=None if services is None else {name: ServiceFact(**of) for name, of in services.items()},
    )


def secrets(keys: Mapping[str, str]) -> Secrets:
    return Secrets({name: STRONG.get(key, key) for name, key in keys.items()})


def file_fact(mode: str = "600", **others: Any) -> FileFact:
    return FileFact(mode=int(str(mode), 8), **others)


def read_install(version: str, router_keys: str = "") -> Install:
    """`router_keys`: words, or those that 1.106.2 has for "usual"."""
    return Install("/usr/bin/litellm", "/usr/bin/python3", version, frozenset(router_keys.split()))


def generated(how: str, sources: Mapping[str, str]) -> str:
    texts = {
        "none": "",
        "fresh": with_header(BODY, "0.5.0", "1.106.2", sources),
        "stale": with_header(BODY, "0.5.0", "1.106.2", {**sources, "ports.yaml": "0" * 64}),
        "edited": with_header(BODY, "0.5.0", "1.106.2", sources) + "litellm_settings: {}\n",
        "foreign": BODY,
    }
    return texts[how]
