"""Catalogs of the gateway for tests: small ones by hand, and arbitrary ones out of a random generator."""

from __future__ import annotations

from random import Random
from typing import Any

from agentd.core.gateway.install import Install
from agentd.core.gateway.model import Absent, Catalog, Deployment, Kind, Limits, Model, Policy, Port, Provider
from agentd.core.gateway.tree import Place

AT = Place("model-mappings.yaml", 3, 5)
INSTALL = Install("/venv/bin/litellm", "/venv/bin/python", "1.106.2")
APIS = {Kind.LOCAL: ("", "ollama_chat", "openai"), Kind.VLLM: ("", "hosted_vllm"), Kind.CLOUD: ("openai", "anthropic")}


def provider(name: str = "local", kind: Kind = Kind.LOCAL, port: int = 8001, **fields: Any) -> Provider:
    fields = {"base_url": f"http://127.0.0.1:{port}/v1"} | fields
    return Provider(name, kind, AT, **fields)


def model(name: str, *fallbacks: str, providers: tuple[str, ...] = ("local",), **fields: Any) -> Model:
    deployments = tuple(Deployment(p, f"{name}-on-{p}", AT) for p in providers)
    return Model(name, AT, fields.pop("deployments", deployments), fallbacks=fallbacks, **fields)


def catalog(*models: Model, providers: tuple[Provider, ...] = (), **policy: Any) -> Catalog:
    return Catalog(providers or (provider(),), (), models, Policy(**policy))


def arbitrary(rng: Random) -> Catalog:
    """Mostly such that the checks pass it, with disabled and missing things, cycles and long chains among them."""
    providers = tuple(_provider(rng, number) for number in range(rng.randint(1, 4)))
    names = [rng.choice(("m{}", "team/m{}", "m{}:latest", "openai/m{}")).format(n) for n in range(rng.randint(1, 8))]
    aliases = [f"alias{n}" for n in range(rng.randint(0, 4))]
    owner = {alias: rng.randrange(len(names)) for alias in aliases}
    models = []
    for number, name in enumerate(names):
        later = [*names[number + 1 :], *(a for a in aliases if owner[a] > number)]
        models.append(
            Model(
                name,
                AT,
                tuple(_deployment(rng, providers) for _ in range(rng.choice((1, 1, 1, 2, 3)))),
                aliases=tuple(a for a in aliases if owner[a] == number),
                capabilities=rng.choice((("chat",), ("chat", "tools"), ())),
                fallbacks=_references(rng, later, names),
                context_fallbacks=_references(rng, later, names) if rng.random() < 0.3 else (),
                enabled=rng.random() < 0.85,
                when_absent=rng.choice(tuple(Absent)),
                try_timeout=rng.choice((None, None, 5.0, 12.5)),
                info={"max_input_tokens": 4096, "base_model": "x"} if rng.random() < 0.2 else {},
            )
        )
    return Catalog(providers, _ports(rng, providers), tuple(models), _policy(rng))


def _references(rng: Random, later: list[str], names: list[str]) -> tuple[str, ...]:
    """Of those that come after, so that there is no way back; now and then of any, or of none that exists."""
    pool = [*names, "nobody"] if rng.random() < 0.04 else later
    return tuple(rng.sample(pool, min(len(pool), rng.choice((0, 0, 1, 1, 2)))))


def _provider(rng: Random, number: int) -> Provider:
    kind = rng.choice(tuple(Kind))
    api = rng.choice(APIS[kind])
    path = "" if api == "ollama_chat" else "/v1"
    url = "" if kind is Kind.CLOUD else f"http://127.0.0.1:{8001 + number}{path}"
    key = f"KEY_{number}" if kind is Kind.CLOUD or rng.random() < 0.4 else ""
    params = {"organization": "org", "extra_headers": {"x-b": "2", "x-a": "1"}} if rng.random() < 0.2 else {}
    return Provider(f"p{number}", kind, AT, api, url, enabled=rng.random() < 0.85, key=key, params=params)


def _ports(rng: Random, providers: tuple[Provider, ...]) -> tuple[Port, ...]:
    ports = [Port("gateway", 4001, AT)]
    ports += [Port(p.name, 8001 + n, AT) for n, p in enumerate(providers) if p.base_url and rng.random() < 0.7]
    if rng.random() < 0.05:
        ports.append(Port("twice", ports[-1].number, AT))
    return tuple(ports)


def _deployment(rng: Random, providers: tuple[Provider, ...]) -> Deployment:
    limits = Limits(rng.choice((None, 0, 7)), rng.choice((None, 0, 70_000)))
    params: dict[str, Any] = rng.choice(({}, {}, {"temperature": 0.2, "weight": 2}, {"order": rng.randint(1, 2)}))
    return Deployment(rng.choice(providers).name, f"org/model-{rng.randint(0, 99)}", AT, limits, params)


def _policy(rng: Random) -> Policy:
    return Policy(
        failures=rng.randint(2, 7),
        cooldown=rng.choice((10.0, 60.0, 7.5)),
        try_timeout=rng.choice((10.0, 30.0)),
        answer_timeout=rng.choice((300.0, 200.0, 120.0)),
        retries=rng.randint(0, 3),
        pre_call_checks=rng.random() < 0.8,
        absent_wait=rng.choice((60.0, 10.0)),
        metrics=rng.random() < 0.5,
        litellm=rng.choice(({}, {}, {"litellm_settings": {"drop_params": True}})),
    )
