"""agentctl models sleep-check: the change is followed, what was measured is shown, and "broken" is a failure."""

from __future__ import annotations

import dataclasses

import pytest
from fakes.cli import Run
from fakes.serving import Served

from agentd import wire
from agentd.model_facts import ModelFacts, SleepFacts
from agentd.types import ExitCode, Outcome

GIB = 1024**3
MEASURED = SleepFacts(1, 3.1, 0.9, 13 * GIB, GIB, 8 * GIB, checked=1_800_000_000.0)


def learned(server: Served, one: SleepFacts) -> None:
    facts = ModelFacts("qwen", load_seconds=58.0, sleep=(one, SleepFacts(2)))
    server.call(lambda ops: setattr(ops, "facts_of", lambda _model: facts))
    server.call(lambda ops: setattr(ops, "end", (Outcome.DONE, "sleep level 1 of qwen: worth it: 4.0 s", "")))


def test_it_is_followed_and_shows_what_was_measured(server: Served, run: Run) -> None:
    learned(server, MEASURED)
    result = run("models", "sleep-check", "qwen", "--drain", "5")
    assert result.code == 0, result.err
    assert server.ops.calls[0] == ("sleep_check", wire.SleepCheckRequest("qwen", 0, 5.0))
    lines = [line.strip() for line in result.out.splitlines()]
    assert "sleep level 1 of qwen: worth it: 4.0 s (3.50 s)" in lines
    assert lines[-5:] == [
        "sleep             3.10 s",
        "wake              0.90 s",
        "GPU memory freed  13.0 GiB",
        "GPU memory kept   1.0 GiB",
        "main memory taken 8.0 GiB",
    ]


def test_a_broken_level_is_exit_1(server: Served, run: Run) -> None:
    learned(server, dataclasses.replace(MEASURED, broken="it says nothing"))
    done = run("models", "sleep-check", "qwen", "--level", "1")
    assert done.code == ExitCode.FAILED
    assert "GPU memory freed" not in done.out, "the figures of an earlier check are not this one's"


@pytest.mark.parametrize(("broken", "code"), [("it says nothing", ExitCode.FAILED), ("", ExitCode.OK)])
def test_a_broken_level_is_exit_1_with_json_too(server: Served, run: Run, broken: str, code: int) -> None:
    learned(server, dataclasses.replace(MEASURED, broken=broken))
    done = run("models", "sleep-check", "qwen", "--json")
    assert (done.code, done.json["kind"], done.json["outcome"]) == (code, "sleep-check", "done")


@pytest.mark.parametrize("level", ["0", "3", "x"])
def test_there_are_two_levels(server: Served, run: Run, level: str) -> None:
    assert run("models", "sleep-check", "qwen", "--level", level).code == ExitCode.USAGE
    assert server.ops.calls == []
