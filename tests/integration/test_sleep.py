"""Models that sleep, on a real systemd with stand-in servers: woken, guarded without agentd, found again."""

from __future__ import annotations

import json
import os
import time
import urllib.request

import pytest
from integration.stack import PORTS, Stack, unit_of, until
from userunits import systemctl

CONFIG = """\
[slots.gpu0]
vram_stable = "0.1s"
vram_timeout = "10s"
cooldown = 0
sleep_reserve = 0
[services.qwen.model]
switch = "sleep1"
[services.dolphin.model]
switch = "sleep1"
"""
MIB = 1024**2


def may_sleep(stack: Stack, name: str) -> None:
    """The unit as the shipped one, with what a model needs to sleep."""
    path = stack.units / unit_of(name)
    text = path.read_text().replace("    --served-model-name", "    --enable-sleep-mode \\\n    --served-model-name")
    path.unlink()
    path.write_text(text.replace("[Service]", "[Service]\nEnvironment=VLLM_SERVER_DEV_MODE=1"))


def behave(stack: Stack, name: str, **settings: object) -> None:
    stack.behaviour(name, vram_bytes=1024 * MIB, sleep_vram_bytes=64 * MIB, **settings)


@pytest.fixture
def asleep(bare_stack: Stack) -> Stack:
    """agentd with dolphin serving and qwen asleep."""
    stack = bare_stack
    stack.write_config("70-test.toml", CONFIG)
    for name in PORTS:
        may_sleep(stack, name)
        behave(stack, name)
    systemctl("daemon-reload")
    stack.start()
    code, change = stack.switch("dolphin")
    assert (code, change["way"]) == (0, "cold"), change
    assert stack.slot()["sleeping"] == ["qwen"], [(p["phase"], p["detail"]) for p in change["phases"]]
    return stack


def sleeping(name: str) -> bool:
    return bool(ask(name, "is_sleeping")["is_sleeping"])


def ask(name: str, what: str, method: str = "GET") -> dict[str, object]:
    request = urllib.request.Request(f"http://127.0.0.1:{PORTS[name]}/{what}", method=method)
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        return dict(json.load(answer))


def awake(stack: Stack) -> list[str]:
    return [name for name in stack.models_up() if not sleeping(name)]


def test_a_sleeper_is_woken_and_keeps_its_process(asleep: Stack) -> None:
    pid = asleep.pid(unit_of("qwen"))
    assert asleep.slot()["sleeping"] == ["qwen"]
    assert ask("qwen", "is_paused")["is_paused"] is True
    health = {s["name"]: s["health"] for s in asleep.client.get("/v1/services")["services"]}
    assert (health["qwen"], health["dolphin"]) == ("asleep", "ready")
    code, change = asleep.switch("qwen")
    assert (code, change["way"]) == (0, "wake"), change
    assert asleep.pid(unit_of("qwen")) == pid
    assert asleep.serving() == ["qwen"]
    assert awake(asleep) == ["qwen"]


def test_a_garbled_wake_is_found_out_and_the_model_started_anew(asleep: Stack) -> None:
    behave(asleep, "dolphin", fail="wake-garbage")
    systemctl("restart", unit_of("dolphin"))
    until(lambda: asleep.answers("dolphin"))
    assert asleep.switch("qwen")[0] == 0
    behave(asleep, "dolphin")
    code, change = asleep.switch("dolphin")
    assert (code, change["way"]) == (0, "cold"), change
    assert asleep.serving() == ["dolphin"]
    start = next(p for p in change["phases"] if p["phase"] == "start")
    assert "started anew" in start["detail"]


def test_killed_agentd_finds_its_sleeper_again(asleep: Stack) -> None:
    pids = {name: asleep.pid(unit_of(name)) for name in PORTS}
    asleep.kill_agentd()
    asleep.settled("dolphin")
    assert asleep.slot()["sleeping"] == ["qwen"]
    assert {name: asleep.pid(unit_of(name)) for name in PORTS} == pids
    assert asleep.switch("qwen")[1]["way"] == "wake"


@pytest.mark.parametrize("phase", ["release", "start"])
def test_killed_in_the_middle_of_a_switch_one_model_serves(asleep: Stack, phase: str) -> None:
    change = asleep.post("/v1/switch", target="qwen")
    asleep.phase(change, phase)
    asleep.kill_agentd()
    until(lambda: not asleep.open_changes(), 60.0)
    until(lambda: len(asleep.serving()) == 1, 60.0)
    resident = asleep.serving()[0]
    slot = asleep.settled(resident)
    assert awake(asleep) == [resident]
    assert set(slot["sleeping"]) == set(asleep.models_up()) - {resident}


def test_without_agentd_a_start_by_hand_stops_who_is_awake_and_leaves_sleepers(asleep: Stack) -> None:
    """dolphin is awake, qwen sleeps: a restart of dolphin leaves qwen; a start of qwen from scratch ends dolphin."""
    asleep.stop_agentd()
    pid = asleep.pid(unit_of("qwen"))
    systemctl("restart", unit_of("dolphin"))
    assert asleep.pid(unit_of("qwen")) == pid
    systemctl("stop", unit_of("qwen"))
    systemctl("start", unit_of("qwen"))
    assert systemctl("show", "-P", "ActiveState", unit_of("dolphin")) == "inactive"
    until(lambda: asleep.answers("qwen"))
    assert awake(asleep) == ["qwen"]


def test_the_guard_is_quick(asleep: Stack) -> None:
    """A third of a second is ten times what it takes; a start waits for it."""
    begun = time.monotonic()
    done = asleep.ctl("models", "guard", unit_of("dolphin"), "--", f"{unit_of('qwen')}=http://127.0.0.1:8001")
    assert done.code == 0, done.err
    assert time.monotonic() - begun < 3.0
    print(f"guard: {time.monotonic() - begun:.3f} s, load {os.getloadavg()[0]:.1f}")


def test_a_sleeper_that_is_killed_does_not_come_back_beside_the_model_that_serves(asleep: Stack) -> None:
    """systemd restarts what crashes: neither the guard nor agentd lets it have the GPU."""
    pid = asleep.pid(unit_of("dolphin"))
    os.kill(asleep.pid(unit_of("qwen")), 9)
    until(lambda: asleep.slot()["sleeping"] == [])
    until(lambda: "qwen" not in asleep.models_up())
    assert asleep.pid(unit_of("dolphin")) == pid
    assert asleep.serving() == ["dolphin"]


def test_an_unload_ends_sleepers_too(asleep: Stack) -> None:
    assert asleep.ctl("unload").code == 0
    assert asleep.models_up() == {}


def test_sleep_check_measures_and_says_whether_it_is_worth_it(asleep: Stack) -> None:
    done = asleep.ctl("models", "sleep-check", "dolphin")
    assert done.code == 0, done.err
    assert "sleep level 1 of dolphin: " in done.out
    assert "GPU memory freed" in done.out
    assert asleep.serving() == ["dolphin"]
    assert asleep.slot()["sleeping"] == ["qwen"]
