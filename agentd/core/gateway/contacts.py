"""Where a provider can be asked whether it is there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentd.core.gateway.checks_addresses import OLLAMA
from agentd.core.gateway.checks_context import Address, address_of
from agentd.core.gateway.model import Catalog, Provider

_HOSTS: Mapping[str, str] = {
    "anthropic": "api.anthropic.com",
    "cerebras": "api.cerebras.ai",
    "cohere": "api.cohere.com",
    "deepseek": "api.deepseek.com",
    "fireworks_ai": "api.fireworks.ai",
    "gemini": "generativelanguage.googleapis.com",
    "groq": "api.groq.com",
    "mistral": "api.mistral.ai",
    "openai": "api.openai.com",
    "openrouter": "openrouter.ai",
    "perplexity": "api.perplexity.ai",
    "together_ai": "api.together.xyz",
    "xai": "api.x.ai",
}
"""Of cloud providers without a base_url; others are not asked."""


@dataclass(frozen=True, slots=True)
class Contact:
    """`path`: of a GET, for plain HTTP."""

    host: str
    port: int
    path: str = "/"
    tls: bool = False


def contacts(catalog: Catalog, *, behind_proxy: bool = False) -> dict[str, Contact]:
    """Enabled provider -> how to ask it. `behind_proxy`: only a proxy reaches the Internet, so no TLS."""
    found: dict[str, Contact] = {}
    for provider in catalog.providers:
        contact = contact_of(provider) if provider.enabled else None
        if contact is not None and not (behind_proxy and contact.tls):
            found.setdefault(provider.name, contact)
    return found


def contact_of(provider: Provider) -> Contact | None:
    """None where the address is not known, or is none."""
    if not provider.base_url:
        host = _HOSTS.get(provider.api, "")
        return Contact(host, 443, tls=True) if host else None
    address = address_of(provider.base_url)
    if address is None or address.scheme not in ("http", "https") or not address.port:
        return None
    return Contact(address.host, address.port, _path(provider, address), address.scheme == "https")


def _path(provider: Provider, address: Address) -> str:
    """A list of models, or a version: what costs the server nothing. A path that would have to be escaped is not
    sent."""
    path = address.path.rstrip("/")
    if not path.isascii() or not path.isprintable() or " " in path:
        return "/"
    if provider.api in OLLAMA:
        return f"{path}/api/version"
    return f"{path}/models" if path.endswith("/v1") else f"{path}/"
