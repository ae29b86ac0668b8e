"""A real vLLM in trouble: broken weights, a killed server, a killed engine, requests in flight when a switch comes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from model.asking import Generation, agentctl, said, unchecked, until
from model.test_switch import Switch, assert_only, completion, make_resident, pids, resident, show

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

URL = "http://127.0.0.1:8001"
LONG = 4000
"""Tokens; some ten seconds of work."""


@contextmanager
def truncated(weights: Path) -> Iterator[None]:
    """As a download leaves it that was broken off."""
    good = weights.with_suffix(".good")
    shutil.copy(weights, good)
    try:
        with weights.open("r+b") as file:
            file.truncate(weights.stat().st_size // 2)
        yield
    finally:
        good.rename(weights)


def titles(name: str) -> dict[int, str]:
    """What runs in the unit's cgroup, by pid."""
    found = {}
    for pid in pids(show(name, "ControlGroup")):
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
    return found


def serving(switch: Switch, name: str) -> None:
    if resident() != name:
        make_resident(switch, name, "--force")
    until(lambda: answers(name))


def comes_back(name: str, before: str) -> None:
    until(lambda: show(name, "InvocationID") not in ("", before))
    until(lambda: answers(name))
    assert resident() == name


def answers(name: str) -> bool:
    try:
        return completion(name) == f" {name}"
    except OSError:
        return False


def test_broken_weights_are_found_before_anything_stops(switch: Switch, models: Path) -> None:
    serving(switch, "qwen")
    before = show("qwen", "InvocationID")
    with truncated(models / "dolphin/model.safetensors"):
        done = switch("dolphin", "--force")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "model.safetensors" in done.stdout + done.stderr
    assert show("qwen", "InvocationID") == before
    assert_only("qwen", models, set())


def test_weights_that_vllm_cannot_read_are_rolled_back(switch: Switch, models: Path, home: Path) -> None:
    serving(switch, "qwen")
    with unchecked(home), truncated(models / "dolphin/model.safetensors"):
        done = switch("dolphin", "--force")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "safetensor" in done.stderr.lower(), "the cause is vLLM's own"
    assert_only("qwen", models, set())


def test_a_killed_server_leaves_no_engine_behind(switch: Switch, models: Path) -> None:
    serving(switch, "qwen")
    before, old = show("qwen", "InvocationID"), titles("qwen")
    assert "VLLM::EngineCore" in old.values()
    os.kill(int(show("qwen", "MainPID")), signal.SIGKILL)
    comes_back("qwen", before)
    assert_only("qwen", models, set(old))


def test_a_server_whose_engine_was_killed_comes_back(switch: Switch, models: Path) -> None:
    """It ends with status 0, as if somebody had asked it to."""
    serving(switch, "qwen")
    before, old = show("qwen", "InvocationID"), titles("qwen")
    os.kill(next(pid for pid, title in old.items() if title == "VLLM::EngineCore"), signal.SIGKILL)
    comes_back("qwen", before)
    assert_only("qwen", models, set(old))


def test_a_switch_waits_for_the_generation_in_flight(switch: Switch, models: Path) -> None:
    serving(switch, "qwen")
    old = pids(show("qwen", "ControlGroup"))
    generation = Generation(URL, "qwen", LONG)
    done = switch("dolphin", "--force", "--drain", "5min")
    assert done.returncode == 0, done.stdout + done.stderr
    assert generation.ended().whole, f"cut off after {generation.count} of {LONG} tokens"
    assert_only("dolphin", models, old)


def test_without_a_drain_the_generation_is_cut_off(switch: Switch, models: Path) -> None:
    serving(switch, "qwen")
    old = pids(show("qwen", "ControlGroup"))
    generation = Generation(URL, "qwen", 2 * LONG, n=8)
    done = switch("dolphin", "--force", "--drain", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not generation.ended().whole
    assert_only("dolphin", models, old)


def test_a_load_tells_its_phases(switch: Switch, models: Path) -> None:
    target = "dolphin" if resident() == "qwen" else "qwen"
    assert agentctl("switch-model", target, "--force", "--no-wait").returncode == 0
    followed = agentctl("switch", "status", "--follow")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    seen = followed.stdout + followed.stderr
    assert "wait-ready" in seen
    assert any(word in seen for word in ("loading weights", "starting server", "profiling")), seen
    assert said(f"http://127.0.0.1:{8001 if target == 'qwen' else 8002}", target) == f" {target}"


def test_a_load_that_is_cancelled_goes_back(switch: Switch, models: Path) -> None:
    """A vLLM that loads may not hear SIGTERM; then the limit of its unit ends it."""
    serving(switch, "qwen")
    assert agentctl("switch-model", "dolphin", "--force", "--no-wait").returncode == 0
    until(lambda: "VLLM::EngineCore" in titles("dolphin").values())
    old = set(titles("dolphin"))
    assert agentctl("switch", "cancel").returncode == 5
    assert completion("qwen") == " qwen"
    assert resident() == "qwen"
    assert show("dolphin", "ActiveState") in ("inactive", "failed")
    assert {pid for pid in old if Path(f"/proc/{pid}").exists()} == set()
