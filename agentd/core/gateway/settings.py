"""LiteLLM's settings that make the policy true: what the sections of the config hold besides the models. Pure.

What looks like it would do and does not, as measured on LiteLLM 1.106 and read in its source, stands beside each key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentd.core.gateway.chains import deepest, preorder, walk
from agentd.core.gateway.install import Install
from agentd.core.gateway.model import Model, Policy

REFERENCE = "os.environ/"
SECTIONS = ("litellm_settings", "router_settings", "general_settings", "environment_variables")

COUNTED = (
    "InternalServerError",
    "TimeoutError",
    "RateLimitError",
    "ServiceUnavailableError",
    "BadGatewayError",
    "AuthenticationError",
    "NotFoundError",
)
"""Failures that count for the breaker. Without a line for its class, none counts for a model with one deployment."""

POLICY_KEYS: Mapping[str, Mapping[str, str]] = {
    "router_settings": {
        "model_list": "models",
        "routing_strategy": "policy.routing",
        "num_retries": "policy.retries",
        "retry_policy": "policy.retries",
        "model_group_retry_policy": "policy.retries",
        "enable_weighted_failover": "policy.retries",
        "timeout": "policy.timeouts.try",
        "stream_timeout": "policy.timeouts.silence",
        "allowed_fails": "policy.breaker.failures",
        "allowed_fails_policy": "policy.breaker.failures",
        "cooldown_time": "policy.breaker.cooldown",
        "disable_cooldowns": "policy.breaker",
        "enable_pre_call_checks": "policy.pre_call_checks",
        "fallbacks": "models.NAME.fallbacks",
        "default_fallbacks": "models.NAME.fallbacks",
        "context_window_fallbacks": "models.NAME.context_fallbacks",
        "content_policy_fallbacks": "models.NAME.fallbacks",
        "max_fallbacks": "models.NAME.fallbacks",
        "model_group_alias": "models.NAME.aliases",
    },
    "litellm_settings": {
        "request_timeout": "policy.timeouts.try",
        "num_retries": "policy.retries",
        "allowed_fails": "policy.breaker.failures",
        "cooldown_time": "policy.breaker.cooldown",
        "fallbacks": "models.NAME.fallbacks",
        "default_fallbacks": "models.NAME.fallbacks",
        "context_window_fallbacks": "models.NAME.context_fallbacks",
        "content_policy_fallbacks": "models.NAME.fallbacks",
        "max_fallbacks": "models.NAME.fallbacks",
        "model_alias_map": "models.NAME.aliases",
        "model_group_alias_map": "models.NAME.aliases",
        "require_auth_for_metrics_endpoint": "policy.metrics",
    },
    "general_settings": {"master_key": "policy.master_key", "infer_model_from_keys": "models"},
    "environment_variables": {},
}
"""Section -> key -> the place in the sources that decides it. Such a key below `policy.litellm` is left out."""

_LISTS = {("router_settings", "optional_pre_call_checks"), ("litellm_settings", "callbacks")}
"""Ours first, then those of `policy.litellm`."""


def sections(policy: Policy, models: tuple[Model, ...], install: Install) -> dict[str, dict[str, Any]]:
    """The sections of the config in their order, without empty ones."""
    unknown = unsupported(policy, models, install)
    ours = {
        "litellm_settings": _litellm(policy, install),
        "router_settings": {
            key: value for key, value in _router(policy, models).items() if f"router_settings.{key}" not in unknown
        },
        "general_settings": {"master_key": REFERENCE + policy.master_key},
        "environment_variables": {},
    }
    merged = {section: _merged(section, own, policy.litellm.get(section) or {}) for section, own in ours.items()}
    return {section: settings for section, settings in merged.items() if settings}


def unsupported(policy: Policy, models: tuple[Model, ...], install: Install) -> Mapping[str, str]:
    """Settings of ours that the installed LiteLLM cannot take, and why: it would ignore a router key with a warning and
    not start with metrics."""
    known, why = install.router_keys, f"LiteLLM {install.version} does not know it"
    found = {f"router_settings.{key}": why for key in _router_keys(policy, models) if known and key not in known}
    if policy.metrics and not install.prometheus:
        found["litellm_settings.callbacks: prometheus"] = "the package prometheus_client is not installed with LiteLLM"
    return found


def overridden(policy: Policy) -> tuple[tuple[str, str, str], ...]:
    """(section, key, place in the sources) of every setting below `policy.litellm` that the sources decide."""
    return tuple(
        (section, key, POLICY_KEYS[section][key])
        for section in SECTIONS
        for key in policy.litellm.get(section) or {}
        if key in POLICY_KEYS[section]
    )


def _merged(section: str, own: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(own)
    for key in sorted(more, key=str):
        value = more[key]
        if (section, key) in _LISTS:
            added = value if isinstance(value, list | tuple) else [value]
            merged[key] = list(dict.fromkeys([*own.get(key, ()), *map(str, added)]))
        elif key not in POLICY_KEYS[section] and key not in own:
            merged[key] = canonical(value)
    return merged


def _litellm(policy: Policy, install: Install) -> dict[str, Any]:
    """Without request_timeout, which would beat the router's, and num_retries, which the router's would beat."""
    if not policy.metrics or not install.prometheus:
        return {}
    return {"callbacks": ["prometheus"], "require_auth_for_metrics_endpoint": True}


def _router(policy: Policy, models: tuple[Model, ...]) -> dict[str, Any]:
    references = {
        "fallbacks": _fallbacks(models),
        "context_window_fallbacks": _context_fallbacks(models),
        "model_group_alias": {alias: model.name for model in models for alias in model.aliases},
    }
    return {
        **_limits(policy),
        # it counts hops, and 0 forbids all
        "max_fallbacks": max(1, deepest(models)),
        **{key: value for key, value in references.items() if value},
    }


def _router_keys(policy: Policy, models: tuple[Model, ...]) -> list[str]:
    """The keys of _router(), without working out what the models' fallbacks come to."""
    found = [*_limits(policy), "max_fallbacks"]
    wanted = {
        "fallbacks": any(model.fallbacks for model in models),
        "context_window_fallbacks": any(model.context_fallbacks for model in models),
        "model_group_alias": any(model.aliases for model in models),
    }
    return [*found, *(key for key, there in wanted.items() if there)]


def _limits(policy: Policy) -> dict[str, Any]:
    return {
        "routing_strategy": policy.routing,
        "num_retries": policy.retries,
        "timeout": number(policy.try_timeout),
        "stream_timeout": number(policy.silence_timeout),
        **_breaker(policy),
        "enable_pre_call_checks": policy.pre_call_checks,
        # rpm and tpm alone only weigh the choice between deployments
        "optional_pre_call_checks": ["enforce_model_rate_limits"],
    }


def _breaker(policy: Policy) -> dict[str, Any]:
    """It opens when there are more failures than allowed. 0 as its time would mean LiteLLM's own 5 s."""
    if policy.failures < 1 or policy.cooldown <= 0:
        return {"disable_cooldowns": True}
    allowed = policy.failures - 1
    return {
        "allowed_fails": allowed,
        "allowed_fails_policy": {f"{name}AllowedFails": allowed for name in COUNTED},
        "cooldown_time": number(policy.cooldown),
    }


def _fallbacks(models: tuple[Model, ...]) -> list[dict[str, list[str]]]:
    """The whole way of each model, for its aliases too: LiteLLM looks it up by the name that was asked for."""
    ways = walk(models)
    return _entries(models, {name: list(way[1:]) for name, way in ways.items()})


def _context_fallbacks(models: tuple[Model, ...]) -> list[dict[str, list[str]]]:
    """Where one model has some, LiteLLM no longer takes the others' fallbacks for a too long prompt: so they are
    written again, without those whose own too long prompts come to the model."""
    if not any(model.context_fallbacks for model in models):
        return []
    found = {model.name: list(model.context_fallbacks) for model in models}
    for name, way in walk(models).items():
        if not found[name]:
            found[name] = [target for target in way[1:] if name not in preorder(found, target)]
    return _entries(models, found)


def _entries(models: tuple[Model, ...], ways: Mapping[str, list[str]]) -> list[dict[str, list[str]]]:
    """A name without a way gets an empty list where LiteLLM would lend it another's: "openai/x" that of "x", and the
    other way round."""
    names = {name: model.name for model in models for name in (model.name, *model.aliases)}
    heads = {name for name, model in names.items() if ways[model]}
    tails = {tail for head in heads for tail in _tails(head)}
    lent = {name for name in names if name in tails or any(tail in heads for tail in _tails(name))}
    return [{name: list(ways[model])} for name, model in names.items() if name in heads or name in lent]


def _tails(name: str) -> list[str]:
    """ "a/b/c" -> "b/c", "c"."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def canonical(value: Any) -> Any:
    """With the keys of every mapping in order: how the source orders them says nothing."""
    if isinstance(value, Mapping):
        return {key: canonical(value[key]) for key in sorted(value, key=str)}
    return [canonical(item) for item in value] if isinstance(value, list | tuple) else value
