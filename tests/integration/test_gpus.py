"""GPUs in the daemon, above the sandbox's stand-in of NVML: what a user sees of errors, a hang, a replaced driver."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.looks import tcp
from integration.stack import Stack, until

GIB = 1024**3
DIRECTORY = Path(os.environ.get("AGENTD_STANDIN_GPU", "/nowhere"))
CARD = {"total": 16 * GIB, "temperature": 61, "utilization": 87, "memory_utilization": 40, "power": 250500,
        "power_limit": 450000, "throttle": 0, "ecc": [0, 0]}  # fmt: skip
PASS = 40.0
"""Two looks at the details, and one that hangs."""


def put(**state: Any) -> None:
    fresh = DIRECTORY / "gpu.json.new"
    fresh.write_text(json.dumps(state))
    fresh.replace(DIRECTORY / "gpu.json")


@pytest.fixture
def driver() -> Iterator[Path]:
    """A file on which calls hang; the usual driver afterwards."""
    stuck = DIRECTORY / "stuck"
    put(gpus=[CARD])
    yield stuck
    stuck.unlink(missing_ok=True)
    (DIRECTORY / "gpu.json").unlink(missing_ok=True)


def aspects(stack: Stack) -> dict[tuple[str, str], str]:
    return {(f["subject"], f["aspect"]): f["cause"] for f in stack.client.get("/v1/status")["gpu_findings"]}


def wait(stack: Stack, subject: str, aspect: str) -> str:
    until(lambda: (subject, aspect) in aspects(stack), PASS, what=lambda: str(aspects(stack)))
    return aspects(stack)[subject, aspect]


@pytest.mark.timeout(180)
def test_what_goes_wrong_is_shown_and_passes(bare_stack: Stack, driver: Path) -> None:
    stack = bare_stack
    stack.start()
    shown = stack.ctl("gpu")
    assert shown.code == 0
    assert "87%" in shown.out
    assert "61 °C" in shown.out
    assert "vllm-qwen.service" in shown.out
    assert "foreign" not in shown.out
    assert aspects(stack) == {}

    put(gpus=[{**CARD, "throttle": 0x40, "ecc": [0, 2]}], xids=[[0, 48]])
    assert "cannot be corrected" in wait(stack, "gpu:0", "xid-48")
    assert set(aspects(stack)) == {("gpu:0", "xid-48"), ("gpu:0", "ecc"), ("gpu:0", "throttle-hw-thermal")}
    assert "! gpu:0: GPU 0 had 2 memory errors" in stack.ctl("status").out
    assert "gpu.xid" in {event["kind"] for event in stack.events()}
    metrics = tcp("/metrics").text
    assert 'agentd_gpu_xid_total{code="48",gpu="0"} 1.0' in metrics
    assert 'agentd_gpu_memory_used_bytes{gpu="0"' in metrics

    driver.touch()
    put(gpus=[CARD], hang_file=str(driver))
    assert "has not answered" in wait(stack, "host", "nvml")
    began = time.monotonic()
    assert stack.client.get("/v1/slots")["slots"][0]["resident"] == "qwen"
    assert time.monotonic() - began < 5
    refused = stack.ctl("switch-model", "dolphin", "--dry-run")
    assert "NVML has not answered" in refused.out + refused.err

    driver.unlink()
    put(gpus=[CARD], nvml_error=18, init_error=18)
    assert "another version" in wait(stack, "host", "nvidia-driver")
    put(gpus=[CARD])
    until(lambda: set(aspects(stack)) == {("gpu:0", "xid-48")}, PASS, what=lambda: str(aspects(stack)))
    assert stack.switch("dolphin")[0] == 0
    kinds = [event["kind"] for event in stack.events() if event["kind"].startswith("gpu.")]
    assert kinds[0] == "gpu.xid"
    assert kinds[-1] == "gpu.readable"
