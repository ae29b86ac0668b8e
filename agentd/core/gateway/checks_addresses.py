"""Checks of where providers are: a url that LiteLLM makes the right requests from, and no key in the clear."""

from __future__ import annotations

from collections.abc import Iterator

from agentd.core.gateway.checks_context import ERROR, INFO, WARNING, Context, address_of, is_private, place_of, split
from agentd.core.gateway.model import Kind, Provider
from agentd.core.gateway.problems import Problem
from agentd.core.redact import without_credentials
from agentd.findings import Severity

OPENAI_LIKE = frozenset({"openai", "hosted_vllm", "vllm", "text-completion-openai", "litellm_proxy", "openai_like"})
"""LiteLLM's prefixes that put "/chat/completions" behind the base_url as it is."""
OLLAMA = frozenset({"ollama", "ollama_chat"})
_ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/models", "/api/chat", "/api/generate")


def base_url(context: Context) -> Iterator[Problem]:
    for provider in context.providers.values():
        found = (_wrong(provider) if provider.base_url else None) or _on_a_socket(context, provider)
        if found is None:
            continue
        severity, text, fix = found
        severity = WARNING if severity is ERROR and not provider.enabled else severity
        shown = without_credentials(provider.base_url)
        yield Problem("base-url", severity, place_of(provider, "base_url", "port"), shown, text, fix)


def _on_a_socket(context: Context, provider: Provider) -> tuple[Severity, str, str] | None:
    service = (context.facts.services or {}).get(provider.service)
    if service is None or not service.url.startswith("http+unix:"):
        return None
    text = f'"{provider.name}" is the service {provider.service}, which answers on a unix socket: LiteLLM reaches none'
    return WARNING, text, f"give {provider.service} a port, or another service to the provider"


def _wrong(provider: Provider) -> tuple[Severity, str, str] | None:
    """The worst about one url."""
    url, name = provider.base_url, provider.name
    parts = split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return ERROR, f'the base_url of "{name}" is no http or https url', "write http://HOST:PORT/v1"
    if any(c.isspace() or not c.isprintable() for c in url):
        return ERROR, f'the base_url of "{name}" contains blanks', "remove them"
    if parts.query or parts.fragment:
        return (
            ERROR,
            f'the base_url of "{name}" has a query or a fragment',
            "end it with the path; use params for the rest",
        )
    if parts.hostname in ("0.0.0.0", "::"):
        return (
            ERROR,
            f'"{name}" is at {parts.hostname}, an address to listen on',
            "write 127.0.0.1, or the host's address",
        )
    return _path(provider, parts.path)


def _path(provider: Provider, path: str) -> tuple[Severity, str, str] | None:
    name, url = provider.name, provider.base_url
    for endpoint in _ENDPOINTS:
        if path.rstrip("/").endswith(endpoint):
            base = url.rstrip("/").removesuffix(endpoint)
            return ERROR, f'the base_url of "{name}" ends with {endpoint}, which LiteLLM adds itself', f"write {base}"
    if provider.api in OLLAMA and path.rstrip("/").endswith(("/v1", "/api")):
        text = f'the base_url of "{name}" has a path, and api {provider.api} adds its own'
        return ERROR, text, f"write {url.rstrip('/').rpartition('/')[0]}, or use api: openai"
    if provider.api in OPENAI_LIKE and path.strip("/") == "" and provider.kind is not Kind.CLOUD:
        text = f'the base_url of "{name}" does not end with /v1, where api {provider.api} expects the endpoints'
        return WARNING, text, f"write {url.rstrip('/')}/v1"
    if url.endswith("/"):
        return INFO, f'the base_url of "{name}" ends with a slash', f"write {url.rstrip('/')}"
    address = address_of(url)
    if address is not None and address.host == "localhost":
        text = f'"{name}" is at localhost, which may mean ::1 first while the server listens on 127.0.0.1'
        return INFO, text, f"write {url.replace('localhost', '127.0.0.1', 1)}"
    return None


def http_for_cloud(context: Context) -> Iterator[Problem]:
    """Plain http to a public host: the key and the prompts travel in the clear."""
    for provider in context.providers.values():
        address = context.addresses.get(provider.name)
        if address is None or address.scheme != "http" or is_private(address.host):
            continue
        severity = ERROR if provider.enabled and (provider.key or provider.kind is Kind.CLOUD) else WARNING
        what = "the key and the prompts travel" if provider.key else "the prompts travel"
        text = f'"{provider.name}" is asked over plain http at the public host {address.host}: {what} unencrypted'
        shown = without_credentials(provider.base_url)
        fix = "write https://"
        yield Problem("http-for-cloud", severity, place_of(provider, "base_url", "port"), shown, text, fix)


def local_for_cloud(context: Context) -> Iterator[Problem]:
    """The kind decides the limits, and what is expected of it."""
    for provider in context.providers.values():
        address = context.addresses.get(provider.name)
        if address is not None and provider.kind is Kind.CLOUD and is_private(address.host):
            text = f'"{provider.name}" is cloud, and its address {address.host} is in this network'
            place, shown = place_of(provider, "kind", "base_url"), without_credentials(provider.base_url)
            fix = "write kind: local or kind: vllm"
            yield Problem("local-address-for-cloud", WARNING, place, shown, text, fix)


def public_for_local(context: Context) -> Iterator[Problem]:
    for provider in context.providers.values():
        address = context.addresses.get(provider.name)
        if address is not None and provider.kind is Kind.LOCAL and not is_private(address.host):
            text = f'"{provider.name}" is local, and its address {address.host} is a public one'
            place, shown = place_of(provider, "kind", "base_url"), without_credentials(provider.base_url)
            yield Problem("public-address-for-local", WARNING, place, shown, text, "write kind: cloud")
