"""A real vLLM under the `gpu` profile: it loads, compiles and serves in the sandbox, and the sandbox holds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from model.test_switch import Switch, completion, resident

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

HELD = ("PrivateUsers", "NoNewPrivileges", "CapabilityBoundingSet", "ProtectSystem", "ProtectHome", "PrivateTmp")


def agentctl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [Path(os.environ["HOME"]) / ".local/bin/agentctl", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def findings(*words: str) -> dict[str, dict[str, Any]]:
    return {f["aspect"]: f for f in json.loads(agentctl(*words, "--json").stdout)}


def test_a_real_vllm_serves_under_its_profile(switch: Switch) -> None:
    applied = agentctl("dropins", "apply")
    assert applied.returncode == 0, applied.stderr
    target = "dolphin" if resident() == "qwen" else "qwen"
    done = switch(target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert target in completion(target)
    verdicts = {aspect: f["verdict"] for aspect, f in findings("dropins", "verify", target).items()}
    assert {aspect: verdicts[aspect] for aspect in HELD} == dict.fromkeys(HELD, "effective")
    proved = findings("dropins", "prove", target)
    assert proved["escape"]["verdict"] == "effective"
    assert [f for aspect, f in proved.items() if aspect.startswith("needs") and f["severity"] != "ok"] == []
