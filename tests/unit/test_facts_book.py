"""What was learned of models: under which fingerprint it counts, and that learning never stands in the way."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fakes import FakeStore

from agentd.errors import AgentdError
from agentd.managers.models.facts import FactsBook
from agentd.model_facts import ModelFacts, ModelNow, SleepFacts

STATES = (("resident", 0), ("asleep", 1), ("asleep", 2))


async def test_facts_of_another_fingerprint_do_not_count() -> None:
    book = FactsBook(FakeStore())
    await book.learn("qwen", "one", load_seconds=40.0)
    assert book.of("qwen", "one").load_seconds == 40.0
    assert book.of("qwen").load_seconds == 40.0
    assert book.of("qwen", "two") == ModelFacts("qwen", "two")
    await book.learn("qwen", "two", vram=7)
    assert book.of("qwen") == ModelFacts("qwen", "two", vram=7)


async def test_what_was_learned_before_there_was_a_fingerprint_counts() -> None:
    book = FactsBook(FakeStore())
    await book.learn("qwen", canary="hello")
    await book.learn("qwen", "one", load_seconds=40.0)
    assert book.of("qwen", "one") == ModelFacts("qwen", "one", canary="hello", load_seconds=40.0)


async def test_facts_survive_a_restart() -> None:
    store = FakeStore()
    await FactsBook(store).learn("qwen", "one", phases={"compiling": 30.0})
    again = FactsBook(store)
    assert again.of("qwen") == ModelFacts("qwen")
    await again.load()
    assert again.of("qwen", "one").phases == {"compiling": 30.0}


async def test_work_aside_is_not_waited_for_and_fails_nobody(caplog: pytest.LogCaptureFixture) -> None:
    book = FactsBook(FakeStore())
    begin, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await begin.wait()
        await book.learn("qwen", "one", vram=7)
        done.set()

    async def fails(error: Exception) -> None:
        raise error

    book.aside(work())
    with caplog.at_level(logging.WARNING):
        book.aside(fails(AgentdError("bus-lost", "away")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert caplog.records == []
    book.aside(fails(RuntimeError("a bug")))
    begin.set()
    await done.wait()
    assert book.of("qwen", "one").vram == 7
    assert [record.message for record in caplog.records] == ["facts.internal"]


async def test_what_the_configuration_no_longer_names_is_forgotten() -> None:
    store = FakeStore()
    book = FactsBook(store)
    for name in ("qwen", "dolphin"):
        await book.learn(name, "one", vram=7)
    await book.keep(["qwen"])
    assert book.of("dolphin") == ModelFacts("dolphin")
    assert set(store.models) == {"qwen"}
    store.fail = AgentdError("journal-full", "the disk is full")
    await book.keep([])
    assert book.of("qwen") == ModelFacts("qwen")


def test_what_a_wake_takes_is_told_only_of_a_level_that_is_used() -> None:
    sleep = (SleepFacts(1, wake_seconds=0.2), SleepFacts(2, wake_seconds=3.0, broken="it says something else"))
    facts = ModelFacts("qwen", sleep=sleep)
    told = [ModelNow("qwen", "gpu0", state, level, facts).wake_seconds for state, level in STATES]
    assert told == [0.2, 0.2, 0.0]
