"""The gateway's sources once their shape is checked: providers, ports, models, policy. References may still be wrong.

Seconds are floats. `place` is where the thing is named, `places` where its single fields stand (by the key in the
file; an entry of a list as "fallbacks.0").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentd.core.gateway.tree import Place


class Kind(StrEnum):
    LOCAL = "local"
    """On this machine or in this network, always there: Ollama, an embedding server."""
    CLOUD = "cloud"
    VLLM = "vllm"
    """One of several that take turns in a slot, or alone."""


class Absent(StrEnum):
    """What a request for a model gets while its slot holds another, or switches."""

    FALLBACK = "fallback"
    """The first of its fallbacks that is there; without one as REFUSE."""
    WAIT = "wait"
    """Held until the model is resident, at most `Policy.absent_wait` seconds; then as REFUSE."""
    SWITCH = "switch"
    """agentd is asked to make it resident, and the request waits as in WAIT."""
    REFUSE = "refuse"
    """503 with Retry-After."""


@dataclass(frozen=True, slots=True)
class Port:
    name: str
    number: int
    place: Place
    host: str = "127.0.0.1"
    unit: str = ""
    """The systemd unit that is meant to listen there; "" when not said."""


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    kind: Kind
    place: Place
    api: str = ""
    """LiteLLM's provider prefix ("anthropic", "ollama_chat"); the default by kind: vllm "hosted_vllm", local "openai";
    required for cloud."""
    base_url: str = ""
    """As written, or made from `port` ("http://HOST:PORT/v1", without "/v1" for ollama and ollama_chat)."""
    enabled: bool = True
    key: str = ""
    """The environment variable that holds the key; "" for none."""
    port: str = ""
    """A name of ports.yaml, instead of `base_url`."""
    service: str = ""
    """agentd's service behind it ("qwen"), which knows the slot; "" to find it by the address."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further litellm_params for every deployment ("api_version", "organization")."""
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens per minute; None: the policy's for the provider's kind; 0: no limit."""

    rpm: int | None = None
    tpm: int | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    provider: str
    model: str
    """What the provider calls it."""
    place: Place
    limits: Limits = Limits()
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further litellm_params ("temperature", "weight")."""


@dataclass(frozen=True, slots=True)
class Model:
    """`deployments`: at least one; written as `provider`/`model` when there is one."""

    name: str
    place: Place
    deployments: tuple[Deployment, ...]
    aliases: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    """Of: chat, completion, embedding, vision, tools, json, audio, rerank, image."""
    fallbacks: tuple[str, ...] = ()
    """Names or aliases, tried in this order."""
    context_fallbacks: tuple[str, ...] = ()
    """For prompts that are too long for it."""
    enabled: bool = True
    when_absent: Absent = Absent.FALLBACK
    try_timeout: float | None = None
    """Instead of the policy's."""
    silence_timeout: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    """Further model_info."""
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """The stack's policy; every value can be set below `policy:` of model-mappings.yaml."""

    failures: int = 5
    """The breaker of a deployment opens at this failure ..."""
    cooldown: float = 60.0
    """... within so many seconds, and for as long."""
    try_timeout: float = 30.0
    silence_timeout: float = 120.0
    """Longest silence of a stream."""
    answer_timeout: float = 300.0
    """Longest whole answer, with all retries and fallbacks."""
    retries: int = 2
    pre_call_checks: bool = True
    routing: str = "simple-shuffle"
    absent_wait: float = 60.0
    limits: Mapping[Kind, Limits] = field(
        default_factory=lambda: {
            Kind.CLOUD: Limits(100, 50_000),
            Kind.LOCAL: Limits(100, 50_000),
            Kind.VLLM: Limits(50, 100_000),
        }
    )
    master_key: str = "LITELLM_MASTER_KEY"
    """The environment variable with the gateway's key."""
    metrics: bool = True
    """LiteLLM's own Prometheus metrics, behind the key."""
    litellm: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further settings by section ("litellm_settings", "router_settings", "general_settings",
    "environment_variables"), for what the policy does not set itself."""
    places: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Catalog:
    """The three sources. Lists, not maps: a name may come twice, which a check finds. `files`: file -> sha256."""

    providers: tuple[Provider, ...]
    ports: tuple[Port, ...]
    models: tuple[Model, ...]
    policy: Policy
    files: Mapping[str, str] = field(default_factory=dict)

    def provider(self, name: str) -> Provider | None:
        return next((p for p in self.providers if p.name == name), None)

    def port(self, name: str) -> Port | None:
        return next((p for p in self.ports if p.name == name), None)


PROVIDERS, PORTS, MODELS = "providers.yaml", "ports.yaml", "model-mappings.yaml"
SOURCES = (PROVIDERS, PORTS, MODELS)
GATEWAY_PORT = "gateway"
"""The name in ports.yaml under which the gateway itself listens."""
