"""From the litellm_params of a hand-written config to providers: who is asked, where, with which key."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agentd.core.gateway.importing_words import REFERENCE, Gathered, is_placeholder
from agentd.core.gateway.model import GATEWAY_PORT, Kind, Port
from agentd.core.gateway.read_providers import DEFAULT_API, WITHOUT_V1, url_of
from agentd.core.gateway.secret_words import is_variable, looks_secret
from agentd.core.gateway.tree import Place

GATEWAY = 4001
_PLACE = Place("ports.yaml")
_OLLAMA = "http://127.0.0.1:11434"
_SHORT = {"hosted_vllm": "vllm", "ollama_chat": "ollama", "text-completion-openai": "openai"}
_BY_MODEL = (
    (("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-", "dall-e-", "whisper-", "tts-"), "openai"),
    (("claude-",), "anthropic"),
)
"""What LiteLLM makes of a model without a provider, for the names that are plain."""
SHARED = ("api_version", "organization", "region_name", "aws_region_name", "vertex_project", "vertex_location")
"""Parameters that belong to the provider; all others stay with the deployment."""


@dataclass(slots=True)
class Found:
    """One provider, to be."""

    api: str
    base_url: str
    key: str
    params: Mapping[str, Any]
    name: str = ""
    port: Port | None = None
    models: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        if "api_base" in self.params:
            return Kind.CLOUD
        if self.api == "hosted_vllm":
            return Kind.VLLM
        if self.api in WITHOUT_V1 or is_near(self.base_url):
            return Kind.LOCAL
        return Kind.CLOUD

    def fields(self) -> dict[str, Any]:
        """As it stands in providers.yaml."""
        found: dict[str, Any] = {"kind": self.kind.value}
        if self.api != DEFAULT_API[self.kind]:
            found["api"] = self.api
        if self.port is not None:
            found["port"] = self.port.name
        elif self.base_url:
            found["base_url"] = self.base_url
        if self.key:
            found["key"] = self.key
        if self.params:
            found["params"] = dict(self.params)
        return found


def split_model(params: Mapping[str, Any]) -> tuple[str, str] | None:
    """(API, what it calls the model); None where LiteLLM would have to look it up in a table of its own."""
    model = params.get("model")
    if not isinstance(model, str):
        return None
    custom = params.get("custom_llm_provider")
    if isinstance(custom, str) and custom:
        return custom, model.removeprefix(f"{custom}/")
    api, mark, rest = model.partition("/")
    if mark:
        return (api, rest) if api and rest else None
    by_name = next((api for starts, api in _BY_MODEL if model.startswith(starts)), "")
    return (by_name, model) if by_name else None


def is_near(url: str) -> bool:
    """This machine or this network."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith((".local", ".lan", ".internal", ".home.arpa")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(host) and "." not in host  # A name of this network or of a container.
    return address.is_private or address.is_loopback


class Providers:
    """Deployments that share API, address, key and region share a provider."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered
        self.found: list[Found] = []

    def of(self, model: str, api: str, params: Mapping[str, Any]) -> Found:
        """`model`: the name under which clients ask, for notes."""
        base = str(params.get("api_base") or params.get("base_url") or "").strip()
        if not base and api in WITHOUT_V1:
            base = _OLLAMA
            self._gathered.note(f"{model}: without an api_base LiteLLM asks Ollama at {_OLLAMA}; this is now written")
        shared = {
            name: self._gathered.without_keys(params[name], name, f"{name} of {model}")
            for name in SHARED if name in params
        }  # fmt: skip
        if base and looks_secret(base):
            base = REFERENCE + self._gathered.variable_for(base, f"{api}_API_BASE", f"api_base of {model}")
        if base.startswith(REFERENCE):  # No address yet: the variable has it, and LiteLLM puts it in.
            shared["api_base"], base = base, ""
        key = self._key(model, api, base, params.get("api_key"))
        for known in self.found:
            if (known.api, known.base_url, known.key, known.params) == (api, base, key, shared):
                known.models.append(model)
                return known
        self.found.append(Found(api, base, key, shared, models=[model]))
        return self.found[-1]

    def _key(self, model: str, api: str, base: str, key: object) -> str:
        """The name of the variable; "" for none."""
        if key is None or key == "":
            return ""
        text = str(key)
        name = text.removeprefix(REFERENCE)
        if name != text and is_variable(name):
            return name
        if is_placeholder(text) and (api in DEFAULT_API.values() or api in WITHOUT_V1) and base:
            self._gathered.note(f"{model}: the placeholder for a key is left out; the server gets one anyway")
            return ""
        return self._gathered.variable_for(text, f"{_SHORT.get(api, api)}_API_KEY", f"api_key of {model}")

    def named(self) -> dict[str, Port]:
        """Give every provider its name, and a port of the registry where its address is the usual one."""
        names: set[str] = set()
        ports: dict[int, Port] = {}
        shorts = [_SHORT.get(found.api, found.api) for found in self.found]
        for found, short in zip(self.found, shorts, strict=True):
            found.name = _unique(_name(found, short, alone=shorts.count(short) == 1), names)
            names.add(found.name)
            found.port = _port(found, ports)
        number = next(n for n in range(GATEWAY, 65536) if n not in ports)
        gateway = Port(GATEWAY_PORT, number, _PLACE)
        return {port.name: port for port in (gateway, *ports.values())}


def _name(found: Found, short: str, *, alone: bool) -> str:
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in short).strip("-._") or "provider"
    if alone:
        return plain
    if found.kind is Kind.CLOUD:
        host = (urlsplit(found.base_url).hostname or "").split(".")[0] if "://" in found.base_url else ""
        return f"{plain}-{host}" if host else plain
    try:
        port = urlsplit(found.base_url).port
    except ValueError:
        port = None
    return f"{plain}-{port}" if port else plain


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken or found == GATEWAY_PORT:
        found, number = f"{name}-{number}", number + 1
    return found


def _port(found: Found, ports: dict[int, Port]) -> Port | None:
    """Two providers at one port share its name, where their addresses are the same but for the path."""
    try:
        parts = urlsplit(found.base_url)
        number, host = parts.port, parts.hostname or ""
    except ValueError:
        return None
    if not number or host not in ("localhost", "127.0.0.1", "::1"):
        return None
    port = ports.get(number) or Port(found.name, number, _PLACE, host)
    if url_of(port, found.api) != found.base_url:
        return None
    return ports.setdefault(number, port)
