"""Ollama as a competitor for the GPU, on the real systemd: every policy, what goes wrong, and who brings it back.

Failure modes: memory that is back late, a request that holds a model, a client that loads it again before the start
and after it, an Ollama that is down, a crash of agentd while Ollama is stopped for a switch.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from integration.stack import Stack, kill_and_wait, until
from userunits import systemctl

OLLAMA, LLAMA = "ollama.service", "llama3:8b"
URL = "http://127.0.0.1:11434"
ROLLED_BACK, DEGRADED = 5, 6


def ask(path: str, body: dict[str, Any] | None = None, timeout: float = 60.0) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(URL + path, data), timeout=timeout) as answer:
        return json.load(answer)


def load(tokens: int = 1) -> None:
    """As a client does: the model is loaded, as far as the GPU has room."""
    ask("/api/generate", {"model": LLAMA, "prompt": "hi", "stream": False, "options": {"num_predict": tokens}})


def on_gpu() -> list[str]:
    return [model["name"] for model in ask("/api/ps")["models"] if model["size_vram"]]


def serving() -> bool:
    try:
        return bool(ask("/api/version", timeout=2.0))
    except OSError:
        return False


def policy(stack: Stack, name: str, **slot: str) -> None:
    lines = "".join(f'{key} = "{value}"\n' for key, value in slot.items())
    stack.write_config(
        "80-ollama.toml",
        f'[slots.gpu0]\n{lines}[services.ollama]\nruntime = {{ policy = "{name}", watch_every = "200ms" }}\n',
    )
    done = stack.ctl("reload")
    assert done.code == 0, done.err


def beside(stack: Stack, name: str = "evict", slot: dict[str, str] | None = None, **behaviour: object) -> None:
    """Ollama runs beside the resident model, and has a model on the GPU, as far as that has room."""
    stack.behaviour("ollama", **behaviour)
    policy(stack, name, **(slot or {}))
    systemctl("start", OLLAMA)
    load()
    assert on_gpu() == [LLAMA]


def phase(change: dict[str, Any], name: str = "evict") -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in reversed(change["phases"]) if p["phase"] == name)
    return found


def runtime(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = stack.client.get("/v1/runtimes")["runtimes"][0]
    return found


# -- evict ----------------------------------------------------------------------------------------------------------


def test_its_models_leave_before_the_start(stack: Stack) -> None:
    beside(stack)
    before = systemctl("show", "-P", "MainPID", OLLAMA)
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert phase(change)["detail"].startswith(f"ollama: unloaded {LLAMA} (")
    assert on_gpu() == []
    assert systemctl("show", "-P", "MainPID", OLLAMA) == before, "it was asked, not restarted"


def test_memory_that_is_back_late_is_waited_for(stack: Stack) -> None:
    """Failure mode 3: longer than Ollama itself waits for it."""
    beside(stack, vram_release_seconds=6.0)
    begun = time.monotonic()
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert time.monotonic() - begun >= 6.0


def test_a_request_in_flight_is_named_and_the_model_before_serves_again(stack: Stack) -> None:
    beside(stack, slot={"evict_timeout": "2s"}, token_seconds=0.1)
    with concurrent.futures.ThreadPoolExecutor(1) as client:
        request = client.submit(load, 100)
        until(lambda: stack.pids(OLLAMA) != frozenset() and on_gpu() == [LLAMA])
        code, change = stack.switch("dolphin")
        assert code == ROLLED_BACK, change
        assert f"ollama still holds {LLAMA}" in change["message"]
        assert "a request in flight keeps it" in change["message"]
        assert stack.serving() == ["qwen"]
        systemctl("kill", "--signal=KILL", OLLAMA)
        with contextlib.suppress(OSError):
            request.result(60)


def test_a_client_that_loads_again_and_again_is_named_and_nothing_is_wedged(stack: Stack) -> None:
    """Failure mode 17, at its worst: the client leaves no room for the model before either, until it is stopped."""
    beside(stack, slot={"vram_stable": "1s"}, fail="reload-on-request")
    code, change = stack.switch("dolphin")
    assert code == DEGRADED, change
    assert f"ollama has loaded {LLAMA}" in change["message"]
    assert "after it was evicted 3 times" in change["message"]
    assert [p["phase"] for p in change["phases"]].count("evict") == 3
    systemctl("stop", OLLAMA)
    assert stack.switch("qwen")[0] == 0, "no force is needed"


def test_one_that_does_not_run_is_no_hindrance(stack: Stack) -> None:
    policy(stack, "evict")
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert phase(change)["detail"] == "nothing loaded elsewhere"


def test_what_is_loaded_afterwards_is_told_and_left_alone(stack: Stack) -> None:
    """Failure modes 14 and 17: no eviction without a start that needs it, no fight."""
    beside(stack)
    assert stack.switch("dolphin")[0] == 0
    with stack.follow() as events:
        load()
        event = events.kind("runtime.reloaded")
    assert event["message"].startswith(f"ollama has loaded {LLAMA} (")
    assert event["message"].endswith("while dolphin is resident")
    found = runtime(stack)
    assert (found["reachable"], found["models"][0]["name"]) == (True, LLAMA)
    assert f"{LLAMA} on the GPU" in stack.ctl("status").out
    text = urllib.request.urlopen("http://127.0.0.1:9775/metrics", timeout=10).read().decode()
    assert 'agentd_runtime_reload_total{runtime="ollama"} 2.0' in text, "beside qwen, and beside dolphin"
    assert 'agentd_runtime_evict_total{result="evicted",runtime="ollama"} 1.0' in text
    time.sleep(1.0)
    assert on_gpu() == [LLAMA]


# -- stop_unit ------------------------------------------------------------------------------------------------------


def up() -> bool:
    return systemctl("show", "-P", "ActiveState", OLLAMA) == "active"


@pytest.mark.parametrize("fails", [False, True])
def test_stop_unit_brings_it_back_whatever_the_outcome(stack: Stack, fails: bool) -> None:
    beside(stack, "stop_unit")
    before = systemctl("show", "-P", "MainPID", OLLAMA)
    if fails:
        stack.behaviour("dolphin", fail="canary-500")
    code, change = stack.switch("dolphin")
    assert code == (ROLLED_BACK if fails else 0), change
    assert phase(change)["detail"] == "ollama: ollama.service is stopped until the change is over"
    until(lambda: up() and serving())
    assert systemctl("show", "-P", "MainPID", OLLAMA) != before
    assert on_gpu() == []


def test_a_crash_of_agentd_while_it_is_stopped_brings_it_back(stack: Stack) -> None:
    beside(stack, "stop_unit")
    stack.behaviour("dolphin", load_seconds=3.0)
    change = stack.post("/v1/switch", target="dolphin")
    stack.phase(change, "wait-ready")
    assert not up()
    stack.kill_agentd()
    until(lambda: up() and serving())
    until(lambda: len(stack.serving()) == 1)


# -- cpu_only -------------------------------------------------------------------------------------------------------


def finding(stack: Stack) -> dict[str, Any]:
    found = stack.client.get("/v1/findings")["findings"]
    chosen: dict[str, Any] = next(f for f in found if f["aspect"] == "policy = cpu_only")
    return chosen


def test_cpu_only_is_proved_after_a_restart(stack: Stack) -> None:
    stack.behaviour("ollama")
    systemctl("start", OLLAMA)
    policy(stack, "cpu_only")
    assert (stack.units / f"{OLLAMA}.d/90-agentd-cpu-only.conf").exists()
    until(lambda: finding(stack)["verdict"] == "needs-restart")
    load()
    until(lambda: bool(runtime(stack)["models"]))
    code, change = stack.switch("dolphin")
    assert (code, change["outcome"]) == (3, "refused"), change
    assert "ollama is to stay on the CPU" in change["message"]
    assert stack.ctl("restart", "ollama").code == 0
    until(lambda: finding(stack)["verdict"] == "effective")
    load()
    assert [m["size_vram"] for m in ask("/api/ps")["models"]] == [0]
    assert stack.switch("dolphin")[0] == 0
    assert [m["name"] for m in ask("/api/ps")["models"]] == [LLAMA], "on the CPU it may stay"
    policy(stack, "evict")
    assert not (stack.units / f"{OLLAMA}.d/90-agentd-cpu-only.conf").exists()


# -- not ours -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stranger(stack: Stack) -> Iterator[None]:
    """An Ollama that no unit of agentd's manager runs."""
    program = str(stack.home / ".local/bin/ollama")
    with subprocess.Popen([program, "serve"], start_new_session=True) as process:
        try:
            until(serving)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_container_is_evicted_probed_and_never_started_or_stopped(stack: Stack) -> None:
    stack.behaviour("ollama")
    (stack.units / OLLAMA).unlink()
    systemctl("daemon-reload")
    stack.write_config(
        "80-ollama.toml",
        '[services.ollama]\ngate = false\nruntime = { managed = "container", watch_every = "200ms" }\n',
    )
    done = stack.ctl("reload")
    assert done.code == 0, done.err
    with stranger(stack):
        load()
        until(lambda: service(stack)["health"] == "ready")
        code, change = stack.switch("dolphin")
        assert code == 0, change
        assert phase(change)["detail"].startswith(f"ollama: unloaded {LLAMA} (")
        refused = stack.ctl("restart", "ollama")
        assert refused.code != 0
        assert "it is a container" in refused.err
        assert not (stack.units / f"{OLLAMA}.d").exists()
        assert serving()
    until(lambda: service(stack)["health"] == "unready")


def test_a_unit_of_the_system_is_evicted_by_its_api_and_otherwise_left_alone(stack: Stack) -> None:
    """A unit of this name runs, and agentd is told that it is not its manager's."""
    beside(stack)
    text = 'gate = false\nruntime = { managed = "system", watch_every = "200ms" }\n'
    stack.write_config("81-ollama.toml", f"[services.ollama]\n{text}")
    done = stack.ctl("reload")
    assert done.code == 0, done.err
    assert not (stack.units / f"{OLLAMA}.d").exists(), "no drop-in of ours is left"
    until(lambda: service(stack)["sub_state"] == "probed" and service(stack)["health"] == "ready")
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert phase(change)["detail"].startswith(f"ollama: unloaded {LLAMA} (")
    refused = stack.ctl("stop", "ollama")
    assert refused.code != 0
    assert "sudo systemctl stop ollama" in refused.err
    assert up()
    systemctl("stop", OLLAMA)
    until(lambda: service(stack)["health"] == "unready")
    assert runtime(stack)["reachable"] is False
    assert stack.switch("qwen")[0] == 0, "one that does not answer is in nobody's way"


def service(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = stack.client.get("/v1/services/ollama")
    return found


def test_kill_of_its_server_is_no_matter_for_a_switch(stack: Stack) -> None:
    """Killed while a switch evicts it: what is gone holds nothing."""
    beside(stack, token_seconds=0.1)
    with concurrent.futures.ThreadPoolExecutor(1) as client:
        request = client.submit(load, 300)
        change = stack.post("/v1/switch", target="dolphin")
        stack.phase(change, "evict")
        kill_and_wait(stack.pid(OLLAMA))
        ended = stack.ended(change)
        assert ended["outcome"] == "done", ended
        with contextlib.suppress(OSError):
            request.result(60)
