"""What is left out of the config, and that it is said so."""

from __future__ import annotations

from gatewaycatalogs import AT, catalog, model, provider

from agentd.core.gateway.model import Catalog, Kind
from agentd.core.gateway.prune import prune
from agentd.core.gateway.tree import Place

OFF = provider("cloud", Kind.CLOUD, api="openai", base_url="", enabled=False)


def said(catalog: Catalog) -> list[tuple[str, str]]:
    return [(left.what, left.why) for left in prune(catalog).left_out]


def test_nothing_is_left_out_of_a_good_catalog() -> None:
    pruned = prune(catalog(model("a", "b"), model("b")))
    assert [m.name for m in pruned.models] == ["a", "b"]
    assert pruned.left_out == ()


def test_a_disabled_model_goes_with_every_reference_to_it() -> None:
    sources = catalog(
        model("a", "b", "short-b", "c", context_fallbacks=("b",)),
        model("b", enabled=False, aliases=("short-b",)),
        model("c"),
    )
    pruned = prune(sources)
    assert [m.name for m in pruned.models] == ["a", "c"]
    assert pruned.models[0].fallbacks == ("c",)
    assert pruned.models[0].context_fallbacks == ()
    assert said(sources) == [
        ("model b", "it is disabled"),
        ("fallback b of a", "b is not served: it is disabled"),
        ("fallback short-b of a", "b is not served: it is disabled"),
        ("context fallback b of a", "b is not served: it is disabled"),
    ]


def test_a_disabled_provider_takes_its_deployments() -> None:
    sources = catalog(
        model("both", providers=("local", "cloud")), model("far", providers=("cloud",)), providers=(provider(), OFF)
    )
    pruned = prune(sources)
    assert [(m.name, [d.provider for d in m.deployments]) for m in pruned.models] == [("both", ["local"])]
    assert set(pruned.providers) == {"local"}
    assert said(sources) == [
        ("provider cloud", "it is disabled"),
        ("deployment cloud/both-on-cloud of both", "provider cloud is disabled"),
        ("model far", "no provider of it is enabled"),
    ]


def test_references_to_nothing_are_dropped() -> None:
    sources = catalog(model("a", "nobody"), model("b", providers=("nowhere",)))
    assert [m.name for m in prune(sources).models] == ["a"]
    assert said(sources) == [
        ("model b", "no provider of it is enabled"),
        ("fallback nobody of a", "there is no model nobody"),
    ]


def test_aliases_become_names_and_each_target_comes_once() -> None:
    pruned = prune(catalog(model("a", "short", "b", "other"), model("b", aliases=("short", "other"))))
    assert pruned.models[0].fallbacks == ("b",)


def test_of_a_name_that_comes_twice_the_first_counts() -> None:
    sources = catalog(model("a", aliases=("x", "b")), model("b", aliases=("x",)), model("a", "b"))
    pruned = prune(sources)
    assert [(m.name, m.aliases, m.fallbacks) for m in pruned.models] == [("a", ("x",), ()), ("b", (), ())]
    assert said(sources) == [("alias b of a", "the name is taken by b"), ("alias x of b", "the name is taken by a")]


def test_the_place_is_the_reference() -> None:
    exact, list_ = Place("model-mappings.yaml", 9, 20), Place("model-mappings.yaml", 9, 5)
    two = catalog(model("a", "x", "y", places={"fallbacks.1": exact, "fallbacks": list_}))
    assert [left.place for left in prune(two).left_out] == [list_, exact]
    assert [left.place for left in prune(catalog(model("a", "x"))).left_out] == [AT]
