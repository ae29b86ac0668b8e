"""What a request can reach by fallbacks, cycles, and the worst case by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from gatewaycatalogs import catalog, model
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.gateway.chains import backoff, cycles, deepest, reach, walk, worst_case
from agentd.core.gateway.model import Absent, Deployment, Model, Policy
from agentd.core.gateway.prune import prune

GRAPHS = st.dictionaries(st.sampled_from("abcdefg"), st.lists(st.sampled_from("abcdefg"), max_size=4), min_size=1)


def models(**fallbacks: str) -> tuple[Model, ...]:
    return tuple(model(name, *targets) for name, targets in fallbacks.items())


def test_each_fallback_brings_its_own_first() -> None:
    ways = walk(models(a="bc", b="ef", c="", e="", f=""))
    assert ways["a"] == ("a", "b", "e", "f", "c")
    assert ways["b"] == ("b", "e", "f")
    assert ways["c"] == ("c",)


def test_no_model_is_tried_twice() -> None:
    assert walk(models(a="bc", b="d", c="d", d=""))["a"] == ("a", "b", "d", "c")
    assert walk(models(a="b", b="a"))["a"] == ("a", "b")


def test_a_too_long_prompt_reaches_more() -> None:
    found = reach((model("a", "b", context_fallbacks=("long",)), model("b"), model("long", "c"), model("c")))
    assert found["a"] == ("a", "b", "long", "c")


def test_by_an_alias_a_model_can_come_twice() -> None:
    """Down from the large one to the small, and up again for a long prompt: no cycle, but by the alias a second try."""
    pair = (model("small", context_fallbacks=("large",), aliases=("s",)), model("large", "small"))
    assert cycles(pair) == cycles(pair, "context_fallbacks") == ()
    assert reach(pair) == {"small": ("small", "large", "small"), "large": ("large", "small")}


@pytest.mark.parametrize(
    ("fallbacks", "found"),
    [
        ({"a": "a"}, [("a", "a")]),
        ({"a": "b", "b": "a"}, [("a", "b", "a")]),
        ({"a": "b", "b": "c", "c": "a", "d": "a"}, [("a", "b", "c", "a")]),
        ({"a": "b", "b": "a", "c": "d", "d": "c"}, [("a", "b", "a"), ("c", "d", "c")]),
        ({"a": "bc", "b": "c", "c": ""}, []),
        ({"d": "a", "a": "bc", "b": "", "c": "a"}, [("a", "c", "a")]),
    ],
)
def test_cycles(fallbacks: dict[str, str], found: list[tuple[str, ...]]) -> None:
    assert sorted(cycles(models(**fallbacks))) == found


@given(GRAPHS)
def test_a_cycle_is_one_and_there_is_one_where_a_way_leads_back(graph: dict[str, list[str]]) -> None:
    known = {name: [t for t in targets if t in graph] for name, targets in graph.items()}
    found = cycles(models(**{name: "".join(targets) for name, targets in known.items()}))
    for cycle in found:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(b in known[a] for a, b in pairwise(cycle))
    leads_back = {a for a in known if a in {y for x in known[a] for y in _closure(known, x)}}
    assert {name for cycle in found for name in cycle} <= leads_back
    assert bool(found) == bool(leads_back)


def _closure(graph: dict[str, list[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(graph[name])
    return seen


def test_thousands_in_a_row_are_no_trouble() -> None:
    row = [model(f"m{n}", f"m{n + 1}") for n in range(20_000)]
    assert cycles(row) == ()
    assert len(cycles([*row, model("m20000", "m0")])[0]) == 20_002


def test_the_back_off_is_what_litellm_sleeps() -> None:
    """0.5, 1, 2 ... at most 8 s, each with up to 0.75 s at random, after the last retry too."""
    assert backoff(0) == 0
    assert backoff(2) == 0.5 + 1 + 2 + 3 * 0.75
    assert backoff(5) == 0.5 + 1 + 2 + 4 + 8 + 8 + 6 * 0.75


def test_the_worst_case_is_written_out() -> None:
    a, b = models(a="b", b="")
    worst = worst_case(Policy(), (a, replace(b, try_timeout=10.0)))
    assert worst.seconds == 2 * 5.75 + 3 * 30 + 3 * 10
    assert worst.text == "(3 x 30 s + 5.75 s back-off) for a + (3 x 10 s + 5.75 s back-off) for b = 131.5 s"


def test_the_default_policy_allows_three_models() -> None:
    chain = models(a="b", b="c", c="d", d="")
    assert worst_case(Policy(), chain[:3]).seconds <= Policy().answer_timeout < worst_case(Policy(), chain).seconds


def test_waiting_for_an_absent_model_counts() -> None:
    a = model("a", when_absent=Absent.WAIT)
    assert worst_case(Policy(), (a,)).seconds == 60 + 95.75
    assert worst_case(Policy(), (a,)).text.startswith("60 s until a is resident + ")
    assert worst_case(Policy(), (model("b"), a)).seconds == 2 * 95.75


def test_every_order_of_deployments_is_tried_anew() -> None:
    first, second = (Deployment("local", "x", model("x").place, params={"order": n}) for n in (1, 2))
    both = model("a", deployments=(first, second))
    assert worst_case(Policy(), (both,)).seconds == 2 * 95.75
    assert worst_case(Policy(), (both,)).text == "2 x (3 x 30 s + 5.75 s back-off) for a = 191.5 s"


def test_how_deep_fallbacks_go() -> None:
    assert deepest(models(a="")) == 0
    assert deepest(models(a="bc", b="", c="d", d="")) == 3


@given(st.randoms(use_true_random=False))
def test_a_walk_begins_with_the_model_and_holds_only_known_ones(rng: Random) -> None:
    names = [f"m{n}" for n in range(rng.randint(1, 9))]
    sources = [model(n, *rng.sample(names, rng.randint(0, min(3, len(names))))) for n in names]
    served = prune(catalog(*sources)).models
    ways, wider = walk(served), reach(served)
    for name, way in ways.items():
        assert way[0] == name
        assert len(set(way)) == len(way)
        assert set(way) <= set(wider[name])
