"""Stop or sleep: every refusal is one sentence, and what is not refused is safe."""

from __future__ import annotations

import dataclasses
import re

import pytest

from agentd.core.sleep_policy import Question, Room, level_of, quarantined, refusal, surplus, verdict, willing
from agentd.model_facts import ModelFacts, SleepFacts

GIB = 1024**3


def ask(**changed: object) -> Question:
    usual = Question(
        "qwen", "sleep1", "switch", 1, version="0.33.0", weights=8 * GIB, available=64 * GIB, reserve=8 * GIB,
        rooms=(Room(0, 24 * GIB, 0, GIB, GIB // 2, 14 * GIB),),
    )  # fmt: skip
    return dataclasses.replace(usual, **changed)  # type: ignore[arg-type]


def facts(**fields: object) -> ModelFacts:
    level = SleepFacts(1, **fields)  # type: ignore[arg-type]
    return ModelFacts("qwen", load_seconds=60.0, sleep=(level,))


@pytest.mark.parametrize("switch", ["sleep1", "sleep2", "auto"])
def test_where_nothing_speaks_against_it_it_sleeps(switch: str) -> None:
    assert refusal(ask(switch=switch)) == ""


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"switch": "stop"}, "configured to be stopped"),
        ({"kind": "unload"}, "an unload wants the whole GPU"),
        ({"kind": "lease"}, "a lease wants the whole GPU"),
        ({"can_sleep": False}, "VLLM_SERVER_DEV_MODE=1"),
        ({"can_pause": False}, "no /pause"),
        ({"version": "0.14.0"}, "vllm#32714"),
        ({"max_sleepers": 0}, "max_sleepers = 0"),
        ({"available": 18 * GIB}, "8G of weights x 1.3 \\+ 8G in reserve\\), 18G is available"),
        ({"weights": 0}, "size of qwen's weights is not known"),
        ({"rooms": (Room(1, 24 * GIB, 8 * GIB, GIB, GIB, 15 * GIB),)}, "on GPU 1 1G would be missing"),
        ({"facts": facts(broken="it says nothing")}, "not used any more: it says nothing"),
        ({"facts": facts(failures=2)}, "failed 2 times in a row"),
        ({"switch": "auto", "facts": facts(sleep_seconds=40.0, wake_seconds=3.0)}, "takes 43.0 s, a cold start 60.0 s"),
        ({"switch": "auto", "measured": False}, "could not be proven"),
    ],
)
def test_each_refusal_says_why(changed: dict[str, object], text: str) -> None:
    assert re.search(text, refusal(ask(**changed))), refusal(ask(**changed))


def test_a_level_that_is_asked_for_by_name_is_not_weighed_by_its_cost() -> None:
    assert refusal(ask(facts=facts(sleep_seconds=40.0, wake_seconds=3.0))) == ""


def test_one_failure_is_none_and_an_unmeasured_cost_is_no_cost() -> None:
    assert refusal(ask(switch="auto", facts=facts(failures=1, sleep_seconds=50.0))) == ""


def test_level_2_needs_no_main_memory() -> None:
    assert refusal(ask(switch="sleep2", available=0, weights=0)) == ""


def test_what_is_pinned_already_is_not_counted_twice() -> None:
    assert refusal(ask(available=0, pinned=True)) == ""


def test_a_check_learns_anew_what_was_broken_but_obeys_the_machine() -> None:
    assert refusal(ask(kind="sleep-check", facts=facts(broken="x", failures=5))) == ""
    assert "main memory" in refusal(ask(kind="sleep-check", available=0))


def test_willing_is_who_is_only_short_of_memory() -> None:
    assert willing(ask(available=0, weights=0))
    assert not willing(ask(version="0.15.1"))


@pytest.mark.parametrize(
    ("version", "bad"),
    [("0.13.9", False), ("0.14.0", True), ("v0.15.1rc2.dev3+g1a2b", True), ("0.16.0", False), ("", False),
     ("nightly", False), ("1.0", False)],
)  # fmt: skip
def test_the_quarantine_knows_versions(version: str, bad: bool) -> None:
    assert bool(quarantined(version)) is bad


@pytest.mark.parametrize(
    ("asleep", "target", "allowed", "gone"),
    [
        (["a"], "b", 1, ()),
        (["a", "b"], "c", 1, ("a",)),
        (["a", "b"], "b", 0, ("a",)),
        (["a", "b", "c"], None, 1, ("a", "b")),
        ([], "a", 0, ()),
    ],
)
def test_the_longest_asleep_goes_first_and_never_the_target(
    asleep: list[str], target: str | None, allowed: int, gone: tuple[str, ...]
) -> None:
    assert surplus(asleep, target, allowed) == gone


def test_levels() -> None:
    assert [level_of(s) for s in ("stop", "sleep1", "sleep2", "auto")] == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (facts(sleep_seconds=3.1, wake_seconds=1.0), "worth it: 4.1 s instead of 60.0 s"),
        (facts(sleep_seconds=50.0, wake_seconds=1.0), "not worth it: 51.0 s instead of 60.0 s"),
        (facts(broken="garbage"), "broken: garbage"),
        (
            ModelFacts("qwen", sleep=(SleepFacts(1, 1.0, 1.0),)),
            "works: 2.0 s; what a cold start takes is not known",
        ),
    ],
)
def test_verdicts(known: ModelFacts, text: str) -> None:
    assert verdict(known, 1) == text
