"""What holds for the config of any sources, and of any that the checks accept."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import urlsplit

from gatewaycatalogs import INSTALL, arbitrary
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentd.core.gateway.chains import backoff, reach, worst_case
from agentd.core.gateway.checks import check
from agentd.core.gateway.document import render
from agentd.core.gateway.generated import Rendered
from agentd.core.gateway.model import Absent, Catalog, Policy
from agentd.core.gateway.problems import errors
from agentd.core.gateway.prune import prune
from agentd.core.gateway.yaml_text import parse


def rendered(catalog: Catalog) -> Rendered:
    return render(catalog, INSTALL, {}, {})


def read(made: Rendered) -> dict[str, Any]:
    plain = parse(made.text, "config").plain()
    assert isinstance(plain, dict)
    return plain


ANY = st.randoms(use_true_random=False).map(arbitrary)


@given(ANY)
def test_no_reference_leads_to_nothing(sources: Catalog) -> None:
    """For refused sources too."""
    made = rendered(sources)
    found = read(made)
    names = {entry["model_name"] for entry in found["model_list"]}
    disabled = {m.name for m in sources.models if not m.enabled}
    assert names.isdisjoint(disabled)
    router = found["router_settings"]
    aliases = router.get("model_group_alias", {})
    assert set(aliases.values()) <= names
    assert names.isdisjoint(aliases)
    for key in ("fallbacks", "context_window_fallbacks"):
        for entry in router.get(key, ()):
            ((head, targets),) = entry.items()
            assert head in names or head in aliases
            assert set(targets) <= names
    assert made.expected == tuple(sorted({*names, *aliases})) == tuple(found["agentd"]["expected_models"])
    off = {p.name for p in sources.providers if not p.enabled}
    assert not any(entry["model_info"]["id"].rsplit("/", 2)[1] in off for entry in found["model_list"])
    ids = [entry["model_info"]["id"] for entry in found["model_list"]]
    assert len(set(ids)) == len(ids)
    assert set(ids).isdisjoint(made.expected)


@given(ANY)
def test_accepted_sources_give_ways_that_end_in_time(sources: Catalog) -> None:
    assume(not errors(check(sources)))
    found = read(rendered(sources))
    router, limit = found["router_settings"], found["agentd"]["answer_limit"]
    ways = {head: targets for entry in router.get("fallbacks", ()) for head, targets in entry.items()}
    longer = {head: targets for entry in router.get("context_window_fallbacks", ()) for head, targets in entry.items()}
    for lists in (ways, longer):
        assert not any(head in _all_of(target, lists) for head, targets in lists.items() for target in targets)
    slow = {entry["model_name"]: entry["litellm_params"]["timeout"] for entry in found["model_list"]}
    orders = {name: _orders(found, name) for name in slow}
    waits = {m.name for m in sources.models if m.when_absent in (Absent.WAIT, Absent.SWITCH)}
    for name in slow:
        seen = _all_of(name, ways, longer)
        assert len(seen) - 1 <= router["max_fallbacks"]
        tries = sum(orders[m] * ((router["num_retries"] + 1) * slow[m] + backoff(router["num_retries"])) for m in seen)
        assert tries + (found["agentd"]["absent_wait"] if name in waits else 0) <= limit


@given(ANY)
def test_no_request_of_accepted_sources_can_take_longer(sources: Catalog) -> None:
    """By an alias too, by which a model can be tried twice."""
    assume(not errors(check(sources)))
    models = {m.name: m for m in prune(sources).models}
    for way in reach(models.values()).values():
        assert worst_case(sources.policy, [models[name] for name in way]).seconds <= sources.policy.answer_timeout


def _orders(found: dict[str, Any], name: str) -> int:
    orders = {e["litellm_params"].get("order") for e in found["model_list"] if e["model_name"] == name}
    return max(1, len(orders - {None}))


def _all_of(start: str, *lists: dict[str, list[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(target for targets in lists for target in targets.get(name, ()))
    return seen


@given(ANY)
def test_accepted_sources_share_no_port(sources: Catalog) -> None:
    assume(not errors(check(sources)))
    numbers = [(port.host, port.number) for port in sources.ports]
    assert len(set(numbers)) == len(numbers)
    used = {
        (d.provider, p.base_url) for m in sources.models for d in m.deployments if (p := sources.provider(d.provider))
    }
    addresses = [urlsplit(url).netloc for _, url in used if url]
    assert len(set(addresses)) == len(addresses)


def test_arbitrary_sources_are_mostly_accepted() -> None:
    """Else the two properties above would say little."""
    accepted = [sources for n in range(200) if not errors(check(sources := arbitrary(Random(n))))]
    assert len(accepted) > 80
    assert sum(bool(m.fallbacks) for sources in accepted for m in sources.models) > 80


@settings(max_examples=50)
@given(ANY, st.randoms(use_true_random=False))
def test_the_same_sources_give_the_same_bytes(sources: Catalog, rng: Random) -> None:
    assert rendered(sources).text == rendered(_shuffled(sources, rng)).text


def _shuffled(sources: Catalog, rng: Random) -> Catalog:
    """With the keys of every mapping in another order."""

    def mixed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        rng.shuffle(keys)
        return {key: mixed(value[key]) for key in keys}

    models = tuple(
        replace(m, info=mixed(m.info), deployments=tuple(replace(d, params=mixed(d.params)) for d in m.deployments))
        for m in sources.models
    )
    providers = tuple(replace(p, params=mixed(p.params)) for p in sources.providers)
    policy: Policy = replace(sources.policy, litellm=mixed(sources.policy.litellm))
    return replace(sources, models=models, providers=providers, policy=policy)
