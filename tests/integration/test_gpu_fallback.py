"""A slot of two GPUs of which one is lost: the next start makes do with the other, and later ones are whole again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.stack import Stack, unit_of

from agentd.sandbox.gpu import ENVIRONMENT

PAIR = """
[slots.gpu0]
gpus = [0, 1]
fallback_gpus = [0]
[services.qwen.model]
tensor_parallel = 2
check_files = "none"
[services.qwen.model.fallback]
utilization = 0.5
[services.dolphin.model]
tensor_parallel = 2
check_files = "none"
"""


@pytest.fixture
def cards() -> Iterator[Callable[..., None]]:
    """Two GPUs; called with what is said of the second one."""
    path = Path(os.environ[ENVIRONMENT]) / "gpu.json"
    before = path.read_text() if path.exists() else None

    def second(**fields: object) -> None:
        path.with_suffix(".new").write_text(json.dumps({"gpus": [{}, fields]}))
        path.with_suffix(".new").rename(path)

    second()
    yield second
    if before is None:
        path.unlink()
    else:
        path.write_text(before)


def runs_with(stack: Stack, model: str) -> tuple[str, str, str]:
    """Tensor parallel size and utilization on the server's command line, and the GPUs in its environment."""
    process = Path("/proc", str(stack.pid(unit_of(model))))
    words = (process / "cmdline").read_text().split("\0")
    variables = dict(line.partition("=")[::2] for line in (process / "environ").read_text().split("\0"))
    values = [words[words.index(flag) + 1] for flag in ("--tensor-parallel-size", "--gpu-memory-utilization")]
    return values[0], values[1], variables.get("CUDA_VISIBLE_DEVICES", "")


def test_a_gpu_that_is_lost_and_comes_back(cards: Callable[..., None], bare_stack: Stack) -> None:
    stack = bare_stack
    stack.write_config("90-pair.toml", PAIR)
    stack.start()
    assert runs_with(stack, "qwen") == ("2", "0.90", "")

    with stack.follow() as events:  # Before the loss: a look at the GPUs in between would tell it early.
        cards(lost=True)
        assert stack.ctl("reload").code == 0
        assert "GPU 1 is missing" in events.kind("slot.fallback")["message"]
    assert "GPU 1 is missing: models of slot gpu0 start on GPU 0 alone" in stack.ctl("status").out
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert runs_with(stack, "dolphin") == ("1", "0.90", "0")
    code, change = stack.switch("qwen")
    assert code == 0, change
    assert runs_with(stack, "qwen") == ("1", "0.5", "0")

    with stack.follow() as events:
        cards()
        assert stack.ctl("reload").code == 0
        events.kind("slot.whole")
    assert "is missing" not in stack.ctl("status").out
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert runs_with(stack, "dolphin") == ("2", "0.90", "")
