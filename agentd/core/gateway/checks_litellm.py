"""Checks of `policy.litellm`: settings handed through to LiteLLM, which ignores what it does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from agentd.core.gateway import known_keys
from agentd.core.gateway.checks_context import ERROR, INFO, WARNING, Context, place_of
from agentd.core.gateway.deployments import DECIDED, DECIDED_INFO
from agentd.core.gateway.model import MODELS, Model
from agentd.core.gateway.problems import Problem
from agentd.core.gateway.settings import POLICY_KEYS, SECTIONS, overridden, unsupported
from agentd.core.gateway.tree import Place
from agentd.findings import Severity

LITELLM, ROUTER, GENERAL = "litellm_settings", "router_settings", "general_settings"
ENVIRONMENT = "environment_variables"
_DEFAULT_FALLBACKS = "default_fallbacks"


def settings(context: Context) -> Iterator[tuple[str, str, Any, Place]]:
    """Every (section, key, value, place) of policy.litellm."""
    for section, values in context.policy.litellm.items():
        for key, value in values.items():
            yield section, key, value, place_in(context, section, key)


def place_in(context: Context, *path: str) -> Place:
    """Of litellm.SECTION.KEY..., or of the nearest above it that is known."""
    ends = range(len(path), -1, -1)
    return context.policy_place(*(".".join(("litellm", *path[:end])) for end in ends))


def unknown_litellm_key(context: Context) -> Iterator[Problem]:
    install = context.facts.install
    version = install.version if install is not None else ""
    for section, key, _, place in settings(context):
        known = _known(context, section)
        if section not in SECTIONS:
            text = f'LiteLLM has no section "{section}" that can be set here'
            fix = f"one of: {', '.join(SECTIONS)}"
            yield Problem("unknown-litellm-key", ERROR, place, f"{section}.{key}", text, fix)
        elif known and key not in known and key not in POLICY_KEYS[section]:
            text = f"LiteLLM {version or known_keys.TAKEN_FROM} ignores {section}.{key}: it knows no such key"
            close = context.closest(key, known)
            home = next((other for other in (ROUTER, LITELLM, GENERAL) if key in _known(context, other)), "")
            fix = f"move it to {home}" if home else f'write "{close}" if that is meant' if close else "remove it"
            severity = _severity(context, section)
            yield Problem("unknown-litellm-key", severity, place, f"{section}.{key}", text, fix)


def _known(context: Context, section: str) -> frozenset[str]:
    """Empty when not known."""
    install = context.facts.install
    if section == ROUTER:
        return install.router_keys if install is not None else frozenset()
    tables = {LITELLM: known_keys.LITELLM_SETTINGS, GENERAL: known_keys.GENERAL_SETTINGS}
    return tables.get(section, frozenset())


def _severity(context: Context, section: str) -> Severity:
    """What the installed version itself says is sure; of versions that the tables are not for, less is."""
    if section == ROUTER:
        return ERROR
    numbers = context.facts.install.numbers if context.facts.install is not None else ()
    return WARNING if not numbers or known_keys.FIRST <= numbers[:2] <= known_keys.LAST else INFO


def policy_key(context: Context) -> Iterator[Problem]:
    """Settings that the sources decide elsewhere: here they are left out, and so do not what they seem to."""
    for section, key, home in overridden(context.policy):
        if key != _DEFAULT_FALLBACKS:
            text = f"{home} decides {section}.{key}; here it is left out"
            place = place_in(context, section, key)
            yield Problem("policy-key", ERROR, place, f"{section}.{key}", text, f"remove it, and set {home}")
    for provider in context.used():
        yield from _decided(provider.params, DECIDED, provider.name, partial(place_of, provider))
    for model in context.catalog.models:
        if model.name in context.served:
            for deployment in model.deployments:
                yield from _decided(deployment.params, DECIDED, model.name, partial(place_of, model))
            yield from _decided(model.info, DECIDED_INFO, model.name, partial(place_of, model), "info")


def _decided(
    values: Mapping[str, Any], table: Mapping[str, str], whose: str, at: Callable[..., Place], field: str = "params"
) -> Iterator[Problem]:
    for key in values:
        if key in table:
            text = f"{table[key]} decides {field}.{key} of {whose}; here it is left out"
            place = at(f"{field}.{key}", field)
            fix = f"remove it, and set {table[key]}" if table[key].startswith(("models.", "policy.")) else "remove it"
            yield Problem("policy-key", WARNING, place, key, text, fix)


def unsupported_policy(context: Context) -> Iterator[Problem]:
    """What the installed version lacks of the policy."""
    install = context.facts.install
    missing = unsupported(context.policy, _EVERYTHING, install) if install is not None and install.version else {}
    for key, why in missing.items():
        text = f"{key}, which the policy needs, is left out: {why}"
        fix = "install a newer LiteLLM with its proxy: pip install -U 'litellm[proxy]' prometheus_client"
        yield Problem("unsupported-policy", WARNING, Place(MODELS), key, text, fix)


_EVERYTHING = (
    Model("a", Place(""), (), aliases=("c",), fallbacks=("b",), context_fallbacks=("b",)),
    Model("b", Place(""), ()),
)
"""Models that need every setting."""


def default_fallbacks(context: Context) -> Iterator[Problem]:
    for section, key, value, place in settings(context):
        if key == _DEFAULT_FALLBACKS and section in (LITELLM, ROUTER) and value:
            text = f"{key} would answer for every model that fails, also for one that is wrong in the config: left out"
            fix = "remove it, and give each model its own fallbacks"
            yield Problem("default-fallbacks", WARNING, place, f"{section}.{key}", text, fix)


def _is_true(value: object) -> bool:
    return value is True


def _is_false(value: object) -> bool:
    return value is False


_DANGEROUS: Mapping[tuple[str, str], tuple[Callable[[object], bool], str, str]] = {
    (GENERAL, "dangerously_permit_weak_or_unset_master_key"): (
        _is_true,
        "lets the gateway start without a key, or with one that everybody knows",
        "remove it, and make a key with: agentctl secrets init",
    ),
    (GENERAL, "background_health_checks"): (
        _is_true,
        "asks every model a real question again and again, which cloud providers charge for",
        "remove it: agentd checks the gateway without asking a model",
    ),
    (GENERAL, "store_model_in_db"): (
        _is_true,
        "adds models from a database that these files do not have",
        "remove it",
    ),
    (GENERAL, "allow_client_side_credentials"): (
        _is_true,
        "lets every client send requests to addresses of its choice",
        "remove it",
    ),
    (ROUTER, "set_verbose"): (_is_true, "writes prompts and headers into the journal", "remove it"),
    (LITELLM, "log_raw_request_response"): (_is_true, "writes prompts and answers into the logs", "remove it"),
    (LITELLM, "ssl_verify"): (_is_false, "sends keys to whoever answers in the provider's name", "remove it"),
}


def dangerous_setting(context: Context) -> Iterator[Problem]:
    for section, key, value, place in settings(context):
        found = _DANGEROUS.get((section, key))
        if found is not None and found[0](value):
            text = f"{section}.{key} {found[1]}"
            yield Problem("dangerous-setting", WARNING, place, f"{section}.{key}", text, found[2])


def litellm_missing(context: Context) -> Iterator[Problem]:
    install = context.facts.install
    if install is not None and not install.version:
        text = "LiteLLM is not installed, so what the installed version knows cannot be checked"
        fix = "install it (pip install 'litellm[proxy]'), or name the program in [gateway] executable"
        yield Problem("litellm-missing", WARNING, Place("agentd.toml"), install.executable, text, fix)
