"""Loads as they are seen from outside, on a real journal and real cgroups: phases, what is left, loads that hang."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from integration.stack import Follower, Stack

ROLLED_BACK = 5
STALL = '[services.dolphin.model]\nstall_timeout = "4s"\nready_timeout = "90s"\n'


@pytest.fixture
def stack() -> Iterator[Stack]:
    made = Stack()
    made.install()
    yield made
    made.remove()


def ready(change: dict[str, Any]) -> dict[str, Any]:
    return next(phase for phase in change["phases"] if phase["phase"] == "wait-ready")


def watched(stack: Stack) -> list[str]:
    """What WAIT_READY said while dolphin loaded."""
    change = stack.post("/v1/switch", target="dolphin")
    said: list[str] = []

    def over(seen: dict[str, Any]) -> bool:
        last = seen["phases"][-1] if seen["phases"] else None
        if last is not None and last["phase"] == "wait-ready" and last["seconds"] is None and last["detail"]:
            said.append(last["detail"])
        return seen["finished"] is not None

    with stack.client.stream(f"/v1/changes/{change['id']}/events") as stream:
        Follower(stream).until(over)
    return said


def test_phases_and_the_time_that_is_left(stack: Stack) -> None:
    stack.behaviour("dolphin", load_seconds=6.0, compile_seconds=2.0)
    stack.start()
    first = watched(stack)
    assert any(re.fullmatch(r"loading weights( \d+ %)?", text) for text in first), first
    assert "compiling" in first, first
    code, back = stack.switch("qwen")
    assert code == 0, back
    second = watched(stack)
    assert any(re.fullmatch(r"loading weights( \d+ %)?, about \d+ s left", text) for text in second), second
    history = stack.client.get("/v1/changes?limit=1")["changes"][0]
    assert "loading weights" in ready(history)["detail"], history


def test_the_weights_are_read_while_the_gpu_comes_free(stack: Stack) -> None:
    # agentd's unit has less memory than these weights would take of it.
    weights = stack.home / "models/dolphin/model.safetensors"
    size = 400 * 1024**2
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with weights.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(len(header) + 8 + size)
    stack.write_config("80-stable.toml", '[slots.gpu0]\nvram_stable = "5s"\nsleep_reserve = 0\n')
    stack.start()
    code, change = stack.switch("dolphin")
    assert code == 0, change["cause"]
    start = next(phase for phase in change["phases"] if phase["phase"] == "start")
    assert start["detail"].endswith("400M of 400M of weights in the page cache"), start
    assert "weights, read ahead" in stack.journal("run-*.scope") + stack.journal("init.scope")


def test_a_load_that_hangs_is_ended(stack: Stack) -> None:
    stack.write_config("80-stall.toml", STALL)
    stack.behaviour("dolphin", load_seconds=2.0, stall="weights")
    stack.start()
    code, change = stack.switch("dolphin")
    assert code == ROLLED_BACK, change
    assert "loading stands still since" in change["cause"], change
    assert "'loading weights'" in change["cause"], change
    assert stack.serving() == ["qwen"]


def test_a_compilation_that_is_silent_is_no_hang(stack: Stack) -> None:
    stack.write_config("80-stall.toml", STALL)
    stack.behaviour("dolphin", load_seconds=1.0, compile_seconds=8.0, compile_cpu=True)
    stack.start()
    code, change = stack.switch("dolphin")
    assert code == 0, change["cause"]
    assert ready(change)["seconds"] > 8, change
