"""The catalog of a proof: the user's models and policy in front of a stand-in, beside models made to fail. Pure.

Times are divided by one factor, so that their ratios stay: a window that holds five timeouts still holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentd.core.gateway.chains import backoff, walk
from agentd.core.gateway.model import Catalog, Deployment, Kind, Limits, Model, Policy, Provider
from agentd.core.gateway.prune import prune
from agentd.core.gateway.tree import Place

PREFIX = "agentd-proof-"
KEY = "AGENTD_PROOF_KEY"
"""The variable with the key that the stand-in gets."""
LARGEST_FACTOR, SHORTEST = 20.0, 1.0
"""Of the scaling; and seconds that no time is scaled below."""
MOST_RPM, SCALED_RPM = 150, 60
"""Requests a minute that are really sent; a larger limit is proved with a smaller one."""
CHAIN = 3
"""Models of the chain that hangs."""
NONE = Limits(0, 0)
_HERE = Place("agentd")
_PLAIN_APIS = ("openai", "hosted_vllm", "openai_like")
OTHER_APIS = ("hosted_vllm", "ollama_chat", "ollama", "anthropic")
"""Whose failures LiteLLM may read differently, and which go where `api_base` says; tried where they are used."""
API_KINDS = ("500", "timeout", "refused")
"""Kinds of failure that need no word of an API's protocol."""
_KEPT_PARAMS = ("weight", "order")
_OUTSIDE = ("redis", "cache", "callback", "alert", "database", "s3", "langfuse", "otel", "secret", "key_management")
"""Settings whose name holds one of these reach other machines, or the user's own state."""


@dataclass(frozen=True, slots=True)
class Rig:
    """`chains`: name or alias of a model of the user's -> what a request tries in turn, the model itself first; those
    with a fallback only."""

    catalog: Catalog
    factor: float
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    context_chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What is not as in the sources, in words."""
    disabled: tuple[str, ...] = ()
    """Names that must not be there."""
    apis: tuple[str, ...] = ()
    """Of the sources' enabled providers, those of OTHER_APIS."""

    @property
    def policy(self) -> Policy:
        return self.catalog.policy


def factor_of(policy: Policy) -> float:
    times = [policy.try_timeout, policy.silence_timeout, *([policy.cooldown] if policy.cooldown > 0 else [])]
    return max(1.0, min(LARGEST_FACTOR, min(times) / SHORTEST))


def allowance(retries: int) -> float:
    """Longest pauses between the tries of one model; LiteLLM's own, not scaled."""
    return backoff(retries)


def start_limit(policy: Policy) -> float:
    """Seconds until a stream whose server says nothing is given up."""
    return min(policy.try_timeout, policy.silence_timeout)


def chain_time(policy: Policy, models: int, retries: int) -> float:
    """Longest seconds of a stream over so many models whose servers say nothing."""
    return models * ((retries + 1) * start_limit(policy) + allowance(retries))


def fitting_retries(policy: Policy, models: int) -> int | None:
    """As many of the policy's as leave such a stream clearly within the whole answer; None: not even without any."""
    most = policy.answer_timeout * 0.9
    return next((n for n in range(policy.retries, -1, -1) if chain_time(policy, models, n) <= most), None)


def rig(catalog: Catalog, *, url: str, refused: str, full: bool = False) -> Rig:
    """`url`: of the stand-in ("http://127.0.0.1:9001/v1"). `refused`: an address where nobody listens."""
    factor = 1.0 if full else factor_of(catalog.policy)
    notes: list[str] = []
    if factor > 1:
        notes.append(f"times are divided by {factor:g}")
    policy = _policy(catalog.policy, factor, notes)
    providers = [_provider(provider, url) for provider in catalog.providers]
    models = [_model(model, factor) for model in catalog.models]
    used = {provider.api for provider in catalog.providers if provider.enabled}
    apis = tuple(api for api in OTHER_APIS if api in used)
    own = tuple(_own_models(policy, apis))
    made = Catalog((*providers, *_own_providers(url, refused, apis)), (), (*models, *own), policy)
    served = prune(catalog).models
    there = {name for model in served for name in (model.name, *model.aliases)}
    ways = walk(served)
    own_names = {model.name for model in own}
    users = [model for model in served if model.name not in own_names and len(ways[model.name]) > 1]
    chains = {name: ways[model.name] for model in users for name in (model.name, *model.aliases)}
    upward = [replace(m, fallbacks=m.context_fallbacks or ways[m.name][1:]) for m in served]
    tops = {model.name for model in served if model.context_fallbacks}
    context_chains = {name: way for name, way in walk(upward).items() if name in tops}
    gone = [name for model in catalog.models for name in (model.name, *model.aliases) if name not in there]
    off = sorted(name for name in own_names if name.startswith(f"{PREFIX}off"))
    return Rig(made, factor, chains, context_chains, tuple(notes), (*dict.fromkeys(gone), *off), apis)


def silence_is_moot(policy: Policy) -> bool:
    """A stream with a pause that is worth measuring ends by the limit of the whole answer."""
    return policy.silence_timeout * 1.5 > policy.answer_timeout


def _policy(policy: Policy, factor: float, notes: list[str]) -> Policy:
    limits = {}
    for kind, own in policy.limits.items():
        limits[kind] = own
        if own.rpm and own.rpm > MOST_RPM:
            limits[kind] = replace(own, rpm=SCALED_RPM)
            notes.append(f"{kind}: {own.rpm} requests a minute are proved as {SCALED_RPM}")
    if silence_is_moot(policy):
        notes.append(
            f"silence in a stream ({policy.silence_timeout:g} s) is not tried:"
            f" the whole answer ({policy.answer_timeout:g} s) ends before"
        )
    return replace(
        policy,
        cooldown=policy.cooldown / factor,
        try_timeout=policy.try_timeout / factor,
        silence_timeout=policy.silence_timeout / factor,
        answer_timeout=policy.answer_timeout / factor,
        absent_wait=policy.absent_wait / factor,
        limits=limits,
        metrics=False,
        litellm=_inside(policy.litellm, notes),
    )


def _inside(settings: Mapping[str, Mapping[str, Any]], notes: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """Without what reaches outside: a proof must not write into the user's Redis or database."""
    kept: dict[str, dict[str, Any]] = {}
    for section in ("litellm_settings", "router_settings"):
        for key, value in (settings.get(section) or {}).items():
            if any(word in key.lower() for word in _OUTSIDE):
                notes.append(f"{section}.{key} is not used: it reaches outside")
            else:
                kept.setdefault(section, {})[key] = value
    return kept


def _provider(provider: Provider, url: str) -> Provider:
    api = provider.api if provider.api in _PLAIN_APIS else "openai"
    return replace(provider, api=api, base_url=url, port="", key=KEY, service="", params={})


def _model(model: Model, factor: float) -> Model:
    """Without its limits, which chains would run into, and with one name at the stand-in."""
    deployments = tuple(
        replace(d, model=backend_name(model.name), limits=NONE, params=_kept(d.params)) for d in model.deployments
    )
    times = {
        name: value / factor
        for name in ("try_timeout", "silence_timeout")
        if (value := getattr(model, name)) is not None
    }
    return replace(model, deployments=deployments, capabilities=("chat",), info={}, **times)


def _kept(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key in _KEPT_PARAMS}


def backend_name(model: str) -> str:
    """What the stand-in knows a model of the user's by."""
    return model.replace("/", "~")


def _own_providers(url: str, refused: str, apis: tuple[str, ...]) -> tuple[Provider, ...]:
    def made(name: str, kind: Kind = Kind.LOCAL, api: str = "openai", **more: Any) -> Provider:
        return Provider(PREFIX + name, kind, _HERE, **{"api": api, "base_url": url, "key": KEY, **more})

    kinds = [made(kind.value, kind, "hosted_vllm" if kind is Kind.VLLM else "openai") for kind in Kind]
    for api in apis:
        bases = (url, refused) if api in ("hosted_vllm", "openai") else (_bare(url), _bare(refused))
        kinds += [made(api, api=api, base_url=bases[0]), made(f"{api}-refused", api=api, base_url=bases[1])]
    return (*kinds, made("refused", base_url=refused), made("disabled", enabled=False))


def _bare(url: str) -> str:
    return url.removesuffix("/v1")


def _own_models(policy: Policy, apis: tuple[str, ...]) -> Iterator[Model]:
    """Each scenario has models of its own, so that all can run at once."""

    def made(name: str, *, provider: str = "local", limits: Limits = NONE, **more: Any) -> Model:
        deployment = Deployment(PREFIX + provider, PREFIX + name, _HERE, limits)
        fallbacks = tuple(PREFIX + target for target in more.pop("fallbacks", ()))
        return Model(PREFIX + name, _HERE, more.pop("deployments", (deployment,)), fallbacks=fallbacks, **more)

    yield made("well")
    for kind in ("500", "503", "401", "timeout", "stream"):
        yield made(f"breaker-{kind}")
    yield made("breaker-refused", provider="refused")
    for api in apis:
        for kind in API_KINDS:
            yield made(f"breaker-{kind}:{api}", provider=f"{api}-refused" if kind == "refused" else api)
    first = Deployment(PREFIX + "local", PREFIX + "group-a", _HERE, NONE, {"weight": 1_000_000_000})
    second = Deployment(PREFIX + "local", PREFIX + "group-b", _HERE, NONE, {"weight": 1})
    yield made("breaker-group", deployments=(first, second))
    for name in ("breaker-retries", "try-timeout", "retries", "stream-silence", "slow-stream", "answer-stream"):
        yield made(name)
    for name in ("stream-start", "stream-try", "fallback-500", "fallback-429", "fallback-timeout", "fallback-open"):
        yield made(name, fallbacks=("well",))
    yield made("fallback-refused", provider="refused", fallbacks=("well",))
    yield made("fallback-limit", limits=Limits(2, 0), fallbacks=("well",))
    yield made("stream-chain", fallbacks=("stream-chain-2",))
    yield made("stream-chain-2")
    for index in range(1, CHAIN + 1):
        yield made(f"hang-{index}", fallbacks=(f"hang-{index + 1}",) if index < CHAIN else ())
    for kind in Kind:
        usual = policy.limits.get(kind, NONE)
        for spare in ("", "-2"):
            yield made(f"rpm-{kind}{spare}", provider=kind.value, limits=Limits(usual.rpm or 0, 0))
            yield made(f"tpm-{kind}{spare}", provider=kind.value, limits=Limits(0, usual.tpm or 0))
    yield made("off", enabled=False)
    yield made("off-provider", provider="disabled")
    yield made("past-off", fallbacks=("off", "off-provider", "well"))
