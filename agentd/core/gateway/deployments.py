"""The models of the config: one entry of `model_list` for each deployment. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentd.core.gateway.generated import LeftOut
from agentd.core.gateway.model import Deployment, Kind, Model, Policy, Provider
from agentd.core.gateway.settings import REFERENCE, canonical, number

OLLAMA = ("ollama", "ollama_chat")
NO_KEY = "no-key"
"""Sent to a server of ours that wants none: without a key in the config LiteLLM would send it the one of
OPENAI_API_KEY or HOSTED_VLLM_API_KEY."""

DECIDED: Mapping[str, str] = {
    "model": "models.NAME.model",
    "rpm": "models.NAME.limits.rpm",
    "tpm": "models.NAME.limits.tpm",
    "timeout": "models.NAME.timeouts.try",
    "request_timeout": "models.NAME.timeouts.try",
    "timeout_by_service_tier": "models.NAME.timeouts.try",
    "stream_timeout": "models.NAME.timeouts.silence",
    "stream_timeout_by_service_tier": "models.NAME.timeouts.silence",
    "num_retries": "policy.retries",
    "max_retries": "policy.retries",
    "cooldown_time": "policy.breaker.cooldown",
    "fallbacks": "models.NAME.fallbacks",
    "default_fallbacks": "models.NAME.fallbacks",
    "context_window_fallbacks": "models.NAME.context_fallbacks",
    "context_window_fallback_dict": "models.NAME.context_fallbacks",
}
"""litellm_params that the sources decide, and where. Below `params` they are left out."""
DECIDED_INFO: Mapping[str, str] = {
    "id": "the model's name with its provider's",
    "blocked": "models.NAME.status",
    "team_id": "models",
    "allowed_fails": "policy.breaker.failures",
    "allowed_fails_policy": "policy.breaker.failures",
    "cooldown_time": "policy.breaker.cooldown",
    "rpm": "models.NAME.limits.rpm",
    "tpm": "models.NAME.limits.tpm",
}

_MODES = {
    "chat": "chat",
    "completion": "completion",
    "embedding": "embedding",
    "rerank": "rerank",
    "image": "image_generation",
    "audio": "audio_transcription",
}
_SUPPORTS = {"vision": "supports_vision", "tools": "supports_function_calling", "json": "supports_response_schema"}
_CHATS = ("chat", "vision", "tools", "json")


def model_list(models: tuple[Model, ...], providers: Mapping[str, Provider], policy: Policy) -> list[dict[str, Any]]:
    """`models` as prune() leaves them: every deployment's provider is in `providers`."""
    taken = {name for model in models for name in (model.name, *model.aliases)}
    return [
        {
            "model_name": model.name,
            "litellm_params": _params(model, deployment, providers[deployment.provider], policy),
            "model_info": {"id": _identity(model, deployment, index, taken), **_info(model)},
        }
        for model in models
        for index, deployment in enumerate(model.deployments, 1)
    ]


def provider_model(provider: Provider, model: str) -> str:
    """ "hosted_vllm/qwen2.5": how LiteLLM is told which kind of API it speaks."""
    api = provider.api or ("hosted_vllm" if provider.kind is Kind.VLLM else "openai")
    return f"{api}/{model}"


def _identity(model: Model, deployment: Deployment, index: int, taken: set[str]) -> str:
    """The same after every generation, and no other's: LiteLLM takes it for a model's name too."""
    name = f"{model.name}/{deployment.provider}/{index}"
    while name in taken:
        name += "+"
    taken.add(name)
    return name


def _params(model: Model, deployment: Deployment, provider: Provider, policy: Policy) -> dict[str, Any]:
    more = {**provider.params, **deployment.params}
    params = {"model": provider_model(provider, deployment.model), **_address(provider, more)}
    params["timeout"] = number(_chosen(model.try_timeout, policy.try_timeout))
    params["stream_timeout"] = number(_chosen(model.silence_timeout, policy.silence_timeout))
    params["max_retries"] = 0  # the router's retries would be multiplied by the client library's
    if policy.failures >= 1 and policy.cooldown > 0:
        params["cooldown_time"] = number(policy.cooldown)  # else a Retry-After of the server decides
    params.update(_limits(deployment, provider, policy))
    return params | {key: canonical(more[key]) for key in sorted(more) if key not in params and key not in DECIDED}


def _address(provider: Provider, more: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if provider.base_url:
        found["api_base"] = provider.base_url
    elif provider.api in OLLAMA and "api_base" not in more:
        found["api_base"] = "http://127.0.0.1:11434"  # without one LiteLLM starts an Ollama of its own
    if provider.key:
        found["api_key"] = REFERENCE + provider.key
    elif provider.kind is not Kind.CLOUD and provider.api not in OLLAMA and "api_key" not in more:
        found["api_key"] = NO_KEY
    return found


def _limits(deployment: Deployment, provider: Provider, policy: Policy) -> dict[str, int]:
    usual = policy.limits.get(provider.kind)
    found = {}
    for name in ("rpm", "tpm"):
        value = getattr(deployment.limits, name)
        value = getattr(usual, name) if value is None and usual is not None else value
        if value:
            found[name] = value
    return found


def _info(model: Model) -> dict[str, Any]:
    mode = next((_MODES[c] for c in _MODES if c in model.capabilities), "")
    if not mode and any(c in model.capabilities for c in _CHATS):
        mode = "chat"
    found: dict[str, Any] = {"mode": mode} if mode else {}
    found.update({flag: True for capability, flag in _SUPPORTS.items() if capability in model.capabilities})
    return found | {key: canonical(model.info[key]) for key in sorted(model.info) if key not in DECIDED_INFO}


def _chosen(own: float | None, usual: float) -> float:
    return usual if own is None else own


def decided(models: tuple[Model, ...], providers: Mapping[str, Provider]) -> Iterator[LeftOut]:
    """Params and info that the sources decide elsewhere, of everything that is served."""
    used = {d.provider for model in models for d in model.deployments}
    for provider in providers.values():
        if provider.name in used:
            place = provider.places.get("params", provider.place)
            yield from _named(provider.params, DECIDED, f"params.%s of provider {provider.name}", place)
    for model in models:
        for deployment in model.deployments:
            what = f"params.%s of {model.name}"
            yield from _named(deployment.params, DECIDED, what, model.places.get("params", deployment.place))
        yield from _named(model.info, DECIDED_INFO, f"info.%s of {model.name}", model.places.get("info", model.place))


def _named(keys: Mapping[str, Any], table: Mapping[str, str], what: str, place: Any) -> Iterator[LeftOut]:
    return (LeftOut(what % key, f"{table[key]} decides it", place) for key in keys if key in table)
