"""The packaged profiles on real programs: Redis, LiteLLM, and a probe that tries to get out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from integration import getting_out, profiled
from integration.profiled import Redis, hidden, readonly, root_of, status
from integration.stack import Stack, kill_and_wait, until
from userunits import systemctl

from agentd.sandbox import home

ROOT = Path(__file__).resolve().parents[2]
LITELLM = ROOT / ".cache/litellm-venv/bin/litellm"
RUNTIME = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"))
REDIS, GATEWAY, QWEN, OLLAMA = "agentd-redis.service", "litellm.service", "vllm-qwen.service", "ollama.service"
PROFILES = ("gateway", "gpu", "store", "generic")
CLOSED = ("session bus", "manager", "agentd", "read a key", "write /usr", "write a login script", "write a unit")
"""To every profile."""
PROBE = """\
[services.probe-{0}]
unit = "probe-{0}.service"
profile = "{0}"
hardening.write_paths = ["~/a b"]
"""
OPEN: Mapping[str, frozenset[str]] = {
    "gateway": frozenset({"write the proxy's cache"}),
    "gpu": frozenset({"write the model cache", "write and execute", "netlink", "priority"}),
    "store": frozenset({"read agentd's configuration"}),
    "generic": frozenset(
        {
            *("write home", "write the model cache", "write the proxy's cache", "write and execute"),
            *("netlink", "priority"),
        }
    ),
}
"""Besides what is open to all: a configured path, /tmp, TCP."""


@pytest.fixture(scope="module")
def sandboxed(shared_stack: Stack) -> Iterator[Stack]:
    """Every unit with its profile; started by the tests. A socket of the test's stands where agentd's would be."""
    user, elsewhere = shared_stack.home, shared_stack.home / "disk2/huggingface"
    for folder in (user / ".ssh", user / ".cache", user / "a b", elsewhere):
        folder.mkdir(parents=True, exist_ok=True)
    (user / ".ssh/id").write_text("not for services\n")
    (user / ".profile").write_text("# login\n")
    (user / ".cache/huggingface").symlink_to(elsewhere)
    (user / ".cache/litellm").mkdir()
    (RUNTIME / "agentd").mkdir(exist_ok=True)
    door = socket.create_server(str(RUNTIME / "agentd/agentd.sock"), family=socket.AF_UNIX)
    profiled.install(shared_stack, "".join(PROBE.format(p) for p in PROFILES))
    for profile in PROFILES:
        profiled.probe_unit(shared_stack, f"probe-{profile}", Path(getting_out.__file__))
    systemctl("daemon-reload")
    with door:
        yield shared_stack
    systemctl("stop", REDIS, GATEWAY, QWEN, OLLAMA, check=False)
    shutil.rmtree(RUNTIME / "agentd")
    for path in (user / ".ssh", user / ".cache", user / "a b", user / "disk2", user / "from-inside"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def confined(stack: Stack, unit: str) -> Path:
    """The root of the unit's main process, after a look that it is in the sandbox at all."""
    pid, root = stack.pid(unit), root_of(stack, unit)
    assert pid, stack.journal(unit, 30)
    assert status(pid)["NoNewPrivs"] == "1"
    assert status(pid)["CapBnd"] == "0" * 16
    assert Path(f"/proc/{pid}/uid_map").read_text().split() != ["0", "0", "4294967295"]
    assert readonly(root / "usr")
    for path in (RUNTIME / "bus", RUNTIME / "systemd/private", RUNTIME / "agentd"):
        assert path.exists(), f"{path} is there to be hidden"
        assert hidden(root / path.relative_to("/"))
    assert not hidden(root / str(RUNTIME / "systemd/notify")[1:])
    return root


def test_redis_keeps_its_data(sandboxed: Stack) -> None:
    data = sandboxed.home / ".local/state/agentd-redis"
    shutil.rmtree(data, ignore_errors=True)
    systemctl("start", REDIS)
    root = confined(sandboxed, REDIS)
    assert readonly(root / str(sandboxed.home)[1:])
    assert not readonly(root / str(data)[1:])
    with Redis() as redis:
        assert redis.info("memory")["mem_allocator"].startswith("jemalloc")
        assert redis("SET", "a", "1") == "OK"
        assert redis("EVAL", "return redis.call('INCRBY', KEYS[1], 41)", "1", "a") == "42"
        assert redis("BGSAVE")
        saved = redis.until_written("rdb_bgsave_in_progress")
        assert saved["rdb_last_bgsave_status"] == "ok"
        assert saved["rdb_changes_since_last_save"] == "0"
        assert redis("BGREWRITEAOF")
        rewritten = redis.until_written("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        assert rewritten["aof_last_bgrewrite_status"] == "ok"
        assert redis("SET", "b", "x") == "OK"
    assert (data / "dump.rdb").stat().st_size > 0
    kill_and_wait(sandboxed.pid(REDIS))
    until(lambda: sandboxed.show(REDIS, "NRestarts") == "1" and sandboxed.show(REDIS, "SubState") == "running")
    systemctl("restart", REDIS)
    with Redis() as redis:
        assert (redis("GET", "a"), redis("GET", "b")) == ("42", "x")
    confined(sandboxed, REDIS)


@pytest.mark.parametrize("profile", PROFILES)
def test_no_way_out(sandboxed: Stack, profile: str) -> None:
    """The same acts in each profile: what is refused, and as important, what is not."""
    systemctl("start", f"probe-{profile}.service")
    found = profiled.answer_of(f"probe-{profile}")
    devices, environment = set(found.pop("devices")), found.pop("environment")
    for act in CLOSED:
        assert found[act], f"{act} went through"
    went_through = {act for act, error in found.items() if not error}
    assert went_through == OPEN[profile] | {"write a configured path", "write /tmp", "tcp"}
    assert not Path("/tmp/from-inside").exists(), "its /tmp is its own"
    host = {path.name for path in Path("/dev").iterdir()}
    assert {"null", "urandom", "shm"} <= devices
    if profile in ("gpu", "generic"):
        assert devices == host
    else:
        assert host - devices, "a device of this machine that the service does not see"
    if profile == "gpu":
        assert environment["TRITON_CACHE_DIR"] == f"{sandboxed.home}/.cache/agentd/probe-gpu/triton"
        assert (sandboxed.home / "disk2/huggingface/from-inside").exists(), "a link to another disk is followed"


def test_without_the_profile_the_same_acts_go_through(sandboxed: Stack) -> None:
    """The probe can tell the difference."""
    unit = profiled.probe_unit(sandboxed, "probe-free", Path(getting_out.__file__))
    systemctl("daemon-reload")
    left = [sandboxed.units / "from-inside.service", Path("/usr/from-inside"), Path("/tmp/from-inside")]
    try:
        systemctl("start", unit)
        found = profiled.answer_of("probe-free")
        assert [act for act in CLOSED if found[act]] == []
        assert all(path.exists() for path in left)
    finally:
        for path in left:
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            getting_out.CGROUP.rmdir()


def test_models_serve(sandboxed: Stack) -> None:
    """Stand-ins: what is real is the sandbox, the gate's command in it, and the directories that it needs."""
    shutil.rmtree(sandboxed.home / ".ollama", ignore_errors=True)
    systemctl("start", QWEN, OLLAMA)
    root = confined(sandboxed, QWEN)
    assert sandboxed.answers("qwen")
    assert readonly(root / str(sandboxed.home / "models/qwen")[1:]), "weights are not the server's to change"
    assert not readonly(root / str(sandboxed.home / ".cache/agentd/vllm-qwen")[1:])
    assert not readonly(confined(sandboxed, OLLAMA) / str(sandboxed.home / ".ollama")[1:])


def test_litellm_routes(sandboxed: Stack) -> None:
    """The real proxy, gated by its readiness drop-in, in front of the stand-in model."""
    assert LITELLM.exists(), "run tests/integration/install_litellm first"
    # A program of its own, no link: the next installation writes the stand-in over it.
    (sandboxed.home / ".local/bin/litellm").write_text(f'#!/bin/sh\nexec {LITELLM} "$@"\n')
    keys = f"LITELLM_MASTER_KEY={home.API_KEY}\nVLLM_API_KEY={home.API_KEY}\n"
    (sandboxed.config / "litellm.env").write_text(keys)
    systemctl("start", REDIS, QWEN)
    # Importing it takes ten seconds, and a minute on a busy machine.
    subprocess.run(["systemctl", "--user", "start", GATEWAY], check=True, timeout=180)
    root = confined(sandboxed, GATEWAY)
    assert readonly(root / str(sandboxed.home)[1:])
    assert ask("/health/liveliness") == "I'm alive!"
    body = {"model": "qwen", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 4}
    answer = ask("/v1/chat/completions", body)
    assert "this is qwen speaking" in answer["choices"][0]["message"]["content"]
    said = sandboxed.journal(GATEWAY, 400)
    assert "Traceback" not in said
    assert "Read-only file system" not in said


def ask(path: str, body: Any = None) -> Any:
    """LiteLLM's answer."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {home.API_KEY}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:4001{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
