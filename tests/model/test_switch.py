"""The switch on the real thing: two vLLM servers that take turns, a model that is missing, a model that is broken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model.asking import unchecked

Done = subprocess.CompletedProcess[str]
Switch = Callable[..., Done]

PORTS = {"qwen": 8001, "dolphin": 8002}
CGROUPS = Path("/sys/fs/cgroup")

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


def completion(name: str) -> str:
    """What the server on the model's port says after "i am"; the request names the model, a stranger answers 404."""
    key = (Path(os.environ["HOME"]) / ".config/agentd/vllm.env").read_text().strip().partition("=")[2]
    body = {"model": name, "prompt": "i am", "max_tokens": 1, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORTS[name]}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        reply: dict[str, Any] = json.load(answer)
    assert reply["model"] == name
    return str(reply["choices"][0]["text"])


def show(name: str, prop: str) -> str:
    command = ["systemctl", "--user", "show", "--value", "-p", prop, f"vllm-{name}.service"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def pids(control_group: str) -> set[int]:
    """Every process in the cgroup and below it."""
    files = (CGROUPS / control_group.lstrip("/")).rglob("cgroup.procs") if control_group else ()
    return {int(pid) for file in files for pid in file.read_text().split()}


def processes_of(directory: Path) -> list[str]:
    """Command lines that name the model's directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


def port_open(name: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORTS[name])) == 0


def resident() -> str | None:
    program = Path(os.environ["HOME"]) / ".local/bin/agentctl"
    done = subprocess.run([program, "status", "--json"], capture_output=True, text=True, timeout=60, check=False)
    status = json.loads(done.stdout)
    slot = next(s for s in status["slots"] if s["name"] == "gpu0")
    return slot["resident"]


def make_resident(switch: Switch, name: str, *options: str) -> None:
    done = switch(name, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_only(name: str, models: Path, gone: set[int]) -> None:
    """`name` serves; of the other one nothing is left, neither of the processes `gone`."""
    other = next(n for n in PORTS if n != name)
    assert completion(name) == f" {name}"
    assert resident() == name
    # failed: it was busy, or loading, did not hear SIGTERM, and its unit's limit ended it.
    assert show(other, "ActiveState") in ("inactive", "failed")
    assert pids(show(other, "ControlGroup")) == set()
    assert {pid for pid in gone if Path(f"/proc/{pid}").exists()} == set()
    assert processes_of(models / other) == []
    assert not port_open(other)


def test_switches_back_and_forth(switch: Switch, models: Path) -> None:
    old: set[int] = set()
    for name in ("qwen", "dolphin", "qwen"):
        make_resident(switch, name)
        assert_only(name, models, old)
        old = pids(show(name, "ControlGroup"))
        assert len(old) >= 2, "the cgroup holds the server and its engine"


def test_a_missing_model_is_refused_before_anything_stops(switch: Switch, models: Path) -> None:
    make_resident(switch, "qwen")
    before = show("qwen", "MainPID"), show("qwen", "InvocationID")
    hidden = models / "dolphin.away"
    (models / "dolphin").rename(hidden)
    try:
        done = switch("dolphin", "--force")
    finally:
        hidden.rename(models / "dolphin")
    assert done.returncode == 3, done.stdout + done.stderr
    assert str(models / "dolphin") in done.stdout + done.stderr
    assert (show("qwen", "MainPID"), show("qwen", "InvocationID")) == before
    assert_only("qwen", models, set())


def test_a_model_that_makes_vllm_exit_is_rolled_back(switch: Switch, models: Path, home: Path) -> None:
    make_resident(switch, "qwen")
    first = show("qwen", "InvocationID")
    config = models / "dolphin/config.json"
    shutil.copy(config, models / "config.good")
    config.write_text("{")
    try:
        with unchecked(home):
            done = switch("dolphin", "--force")
    finally:
        (models / "config.good").rename(config)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "vllm-dolphin.service exited with status 1" in done.stderr
    assert str(config) in done.stderr, "the cause is vLLM's own last word"
    assert show("qwen", "InvocationID") != first
    assert_only("qwen", models, set())
    make_resident(switch, "dolphin", "--force")
    assert_only("dolphin", models, set())
