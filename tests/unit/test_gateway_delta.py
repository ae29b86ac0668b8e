"""What a new config changes, as a diff and in words."""

from __future__ import annotations

from dataclasses import replace

from gatewaycatalogs import INSTALL, catalog, model, provider

from agentd.core.gateway.delta import Delta, delta
from agentd.core.gateway.document import render
from agentd.core.gateway.model import Catalog
from agentd.core.gateway.yaml_text import parse


def text(sources: Catalog, **files: str) -> str:
    return render(sources, INSTALL, {}, files).text


def between(old: str | None, new: str) -> Delta:
    return delta(old, new, old_tree=parse(old, "") if old else None, new_tree=parse(new, ""))


BEFORE = catalog(model("a", "b"), model("b"), model("c"))


def test_nothing_changes() -> None:
    assert between(text(BEFORE), text(BEFORE)) == Delta("", ())


def test_a_new_header_is_no_change_of_the_config() -> None:
    assert between(text(BEFORE, one="a" * 64), text(BEFORE, one="b" * 64)) == Delta("", ())


def test_the_first_config() -> None:
    found = between(None, text(catalog(model("a"))))
    assert found.diff.startswith("--- now\n+++ generated\n@@ -0,0 +1,")
    assert "model a added" in found.words
    assert "router_settings.num_retries: none -> 2" in found.words


def test_models_come_and_go_and_change() -> None:
    after = catalog(model("a", "d", try_timeout=10.0), model("b", providers=("local", "local")), model("d"), retries=3)
    found = between(text(BEFORE), text(after))
    assert found.words == (
        "model c removed",
        "model d added",
        "model a changed: timeout",
        "model b changed: 1 -> 2 deployments",
        "agentd.expected_models: ['a', 'b', 'c'] -> ['a', 'b', 'd']",
        "router_settings.fallbacks: [{'a': ['b']}] -> [{'a': ['d']}]",
        "router_settings.num_retries: 2 -> 3",
    )
    assert "-  num_retries: 2\n+  num_retries: 3\n" in found.diff


def test_long_values_are_cut() -> None:
    after = replace(BEFORE, models=(*BEFORE.models, *(model(f"model-{n}") for n in range(9))))
    word = next(w for w in between(text(BEFORE), text(after)).words if w.startswith("agentd.expected_models"))
    assert word.endswith("...")
    assert len(word) < 160


def test_without_a_readable_file_there_is_only_the_diff() -> None:
    found = delta("- nonsense", text(BEFORE), new_tree=None)
    assert found.words == ()
    assert "-- nonsense\n" in found.diff


def test_a_last_line_without_its_end_stays_a_line() -> None:
    assert "-b\n+c\n" in delta("a\nb", "a\nc").diff


def test_a_key_shows_as_its_variable() -> None:
    after = replace(BEFORE, providers=(provider(key="LOCAL_KEY"),))
    assert "+      api_key: os.environ/LOCAL_KEY" in between(text(BEFORE), text(after)).diff
