"""What a model needs to start, from its command line, the configuration and what was learned."""

from __future__ import annotations

import pytest

from agentd.core.vram_budget import Utilization, expanded, highest_share, need_on, utilization_of
from agentd.gpu import Gpu

GIB = 1024**3
GPU = Gpu(0, "GPU-0", "a GPU", 16 * GIB, 0, 16 * GIB)


@pytest.mark.parametrize(
    ("argv", "share"),
    [
        ("/home/u/.local/bin/vllm serve /m --gpu-memory-utilization 0.85", 0.85),
        ("vllm serve /m --gpu-memory-utilization=0.85", 0.85),
        ("vllm serve /m --gpu_memory_utilization=0.85 --port 1", 0.85),
        ("vllm serve /m --gpu-memory-utilization 0.5 --gpu-memory-utilization 0.7", 0.7),
        ("vllm serve /m", 0.9),
        ("python3 -m vllm.entrypoints.openai.api_server --model /m", 0.9),
        ("vllm serve /m --gpu-memory-utilization ${SHARE}", None),
        ("vllm serve /m --gpu-memory-utilization", None),
        ("vllm serve /m --gpu-memory-utilization 90", None),
        ("vllm serve --config /etc/vllm.yaml", None),
        ("vllm bench startup", None),
        ("/srv/start-my-model --gpu-memory-utilization 0.5", None),
        ("", None),
    ],
)
def test_the_share_of_a_command_line(argv: str, share: float | None) -> None:
    found = utilization_of(argv.split())
    assert (found.share if found else None) == share


def test_a_command_within_a_shell_is_read_too() -> None:
    argv = ["/bin/sh", "-c", "VLLM_API_KEY=$(cat key) exec vllm serve '/m n' --gpu-memory-utilization 0.6"]
    assert utilization_of(argv) == Utilization(0.6, "as its unit says")
    assert utilization_of(["/bin/sh", "-c", "exec vllm serve it's --gpu-memory-utilization 0.6"]) is not None


@pytest.mark.parametrize(
    ("version", "share"), [("", 0.9), ("0.11.0", 0.9), ("0.33.0", 0.92), ("0.32.1rc2+cpu", 0.92), ("odd", 0.9)]
)
def test_the_default_follows_the_version(version: str, share: float) -> None:
    assert utilization_of(["vllm", "serve", "/m"], version) == Utilization(share, "vLLM's default")


def test_variables_of_the_unit_are_put_in_but_never_a_secret() -> None:
    argv = ("vllm", "serve", "--share", "${SHARE}", "--api-key", "$KEY", "--port", "${PORT}", "$$SHARE")
    environment = ("SHARE=0.80", "KEY=hunter2", "junk")
    assert expanded(argv, environment) == (
        "vllm", "serve", "--share", "0.80", "--api-key", "$KEY", "--port", "${PORT}", "$$SHARE",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("configured", "share", "learned", "size", "source"),
    [
        (0, None, 0, 0, ""),
        (14 * GIB, None, 0, 14 * GIB, "as configured"),
        (14 * GIB, None, 15 * GIB, 14 * GIB, "as configured"),
        (0, None, 13 * GIB, 13 * GIB, "as it held last time"),
        (0, 0.75, 13 * GIB, 12 * GIB, "0.75 of 16G, as its unit says"),
        (8 * GIB, 0.75, 0, 12 * GIB, "0.75 of 16G, as its unit says"),
        (14 * GIB, 0.75, 0, 14 * GIB, "as configured"),
    ],
)
def test_what_is_needed(configured: int, share: float | None, learned: int, size: int, source: str) -> None:
    asked = Utilization(share, "as its unit says") if share else None
    need = need_on(GPU, configured=configured, utilization=asked, learned=learned)
    assert (need.size, need.source) == (size, source)


def test_the_highest_share_is_rounded_down() -> None:
    assert highest_share(GPU, 12 * GIB) == 0.75
    assert highest_share(GPU, 12 * GIB - 1) == 0.74
    assert highest_share(GPU, -1) == 0.0
    assert highest_share(Gpu(0, "", "", 0, 0, 0), GIB) == 0.0
