"""The ways in which a switch engine is known to fail, with real processes on the real systemd: each has a test by name.

 1 stop and start race              test_switch_requests: ten at once, joined and refused, cancel while loading
 2 orphaned engine                  here; test_switch_faults: a child that outlives its parent, one that left the cgroup
 3 memory not free yet              here; test_switch_faults: memory that comes back late, memory that never does
 4 memory moves while it loads      here
 5 a sleep that frees nothing       here
 6 a wake without memory            here
 7 a sleep with requests in work    here
 8 garbage after a wake             here
 9 a long compilation               here, and a load that stands still
10 a drain without an end           here; test_switch_requests: without a drain, told to refuse
11 SIGTERM twice, or too early      test_switch_faults: a failed target that ignores SIGTERM; lifecontract.py
12 the engine dead                  here; unkillable is test_switch_faults: memory that never comes back
13 thrash                           tests/unit/test_sleep_check.py
14 an eviction loop                 tests/unit/test_eviction.py
15 a stale queued switch            nothing is queued: test_switch_requests, joined and refused
16 the same model started twice     test_switch_requests: ten at once
17 another manager takes the GPU    here; test_ollama.py
18 the gateway sends in the gap     here; test_gateway_apply.py and tests/contract/test_gateway_serving.py
19 agentd crashes in the middle     here with a sleeper; test_switch_crash.py at every write
20 main memory for a sleeper        here
"""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from typing import Any

import pytest
from integration.stack import LONG, PORTS, Stack, kill_and_wait, unit_of, until
from integration.test_switch_requests import Generation
from userunits import systemctl

from agentd.sandbox.gpu import GIB

QWEN, DOLPHIN = "vllm-qwen.service", "vllm-dolphin.service"
OK, REFUSED, ROLLED_BACK = 0, 3, 5
UTILIZATION = 0.2
SLEEPERS = """\
[slots.gpu0]
max_sleepers = 2
sleep_reserve = 0

[services.qwen.model]
switch = "sleep1"

[services.dolphin.model]
switch = "sleep1"
"""


def with_sleepers(stack: Stack, **qwen: object) -> Stack:
    """Both models may sleep, on a fifth of the GPU each; `qwen`: how it acts. agentd runs, and qwen serves."""
    stack.write_config("80-sleepers.toml", SLEEPERS)
    for name in PORTS:
        sleep_mode(stack, unit_of(name))
    stack.behaviour("qwen", **qwen)
    systemctl("daemon-reload")
    stack.start()
    return stack


def sleep_mode(stack: Stack, unit: str) -> None:
    text = (stack.units / unit).read_text()
    start = text[text.index("ExecStart=") : text.index("\n\n", text.index("ExecStart="))]
    start = re.sub(r"--gpu-memory-utilization \S+", f"--gpu-memory-utilization {UTILIZATION}", start)
    lines = ("[Service]", "Environment=VLLM_SERVER_DEV_MODE=1", "ExecStart=", f"{start} --enable-sleep-mode", "")
    stack.dropin(unit, "50-sleep.conf", "\n".join(lines))


def invocation(stack: Stack, name: str) -> str:
    return stack.show(unit_of(name), "InvocationID")


def switched(stack: Stack, target: str, *options: str) -> dict[str, Any]:
    code, change = stack.switch(target, *options)
    assert code == OK, change
    until(lambda: stack.answers(target))
    return change


def asleep(stack: Stack, name: str) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[name]}/is_sleeping", timeout=LONG) as answer:
        return bool(json.load(answer)["is_sleeping"])


def phase(change: dict[str, Any], name: str) -> str:
    return " ".join(str(p["detail"]) for p in change["phases"] if p["phase"] == name)


def kinds(stack: Stack) -> list[str]:
    return [event["kind"] for event in stack.events()]


def only(stack: Stack, name: str) -> None:
    """It alone runs, and nobody else holds memory."""
    assert list(stack.models_up()) == [name]
    assert set(stack.claims()) <= stack.models_up()[name]
    assert stack.slot()["resident"] == name


def held(stack: Stack, name: str) -> int:
    return sum(size for pid, size in stack.claims().items() if pid in stack.pids(unit_of(name)))


# -- as it should be --------------------------------------------------------------------------------------------------


def test_two_sleepers_take_turns_without_a_start(bare_stack: Stack) -> None:
    stack = with_sleepers(bare_stack)
    first = switched(stack, "dolphin")
    runs = {name: invocation(stack, name) for name in PORTS}
    assert asleep(stack, "qwen")
    assert held(stack, "qwen") < GIB < held(stack, "dolphin")
    back = switched(stack, "qwen")
    assert (first["way"], back["way"]) == ("cold", "wake")
    assert {name: invocation(stack, name) for name in PORTS} == runs, "nothing was started anew"
    assert asleep(stack, "dolphin")
    switched(stack, "dolphin")
    assert {name: invocation(stack, name) for name in PORTS} == runs


# -- 2, 12: the engine ------------------------------------------------------------------------------------------------


def test_2_an_engine_orphaned_by_a_killed_server_goes_with_its_unit(stack: Stack) -> None:
    engine = stack.pids(QWEN) - {stack.pid(QWEN)}
    assert engine
    kill_and_wait(stack.pid(QWEN))
    stack.settled("qwen")
    assert not engine & set(stack.claims())
    only(stack, "qwen")


def test_12_a_server_whose_engine_was_killed_comes_back(stack: Stack) -> None:
    """vLLM ends with status 0 then, which `Restart=on-failure` takes for a clean end."""
    before = invocation(stack, "qwen")
    (engine,) = stack.claims()
    os.kill(engine, signal.SIGKILL)
    until(lambda: invocation(stack, "qwen") not in ("", before))
    stack.settled("qwen")
    only(stack, "qwen")


# -- 3, 4: memory that moves ------------------------------------------------------------------------------------------


def test_3_a_stranger_that_leaves_late_is_waited_for(stack: Stack) -> None:
    """The switch begins with too little; what is missing comes back while it waits."""
    stack.behaviour("qwen", vram_release_seconds=1.5)
    systemctl("restart", QWEN)
    stack.settled("qwen")
    change = switched(stack, "dolphin")
    assert {p["phase"]: p["seconds"] for p in change["phases"]}["wait-vram"] >= 1.0
    only(stack, "dolphin")


def test_4_memory_that_grows_while_it_loads_costs_a_second_try_and_no_rollback(bare_stack: Stack) -> None:
    stack = with_sleepers(bare_stack)
    stack.behaviour("dolphin", load_seconds=2.0)
    stranger = stack.memory.claim(1, 2 * GIB, held=True)
    with stack.ctl_aside("switch-model", "dolphin", "--json") as process:
        until(lambda: held(stack, "dolphin") > 0)
        stranger.unlink()
        out, _ = process.communicate(timeout=120)
    change = json.loads(out)
    assert change["outcome"] == "done", change
    assert "start.retried" in kinds(stack)
    assert [p["phase"] for p in change["phases"]].count("start") == 2
    assert stack.answers("dolphin")


# -- 5, 7: falling asleep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", ["sleep-keeps-memory", "sleep-half", "sleep-crash"])
def test_5_a_sleep_that_does_not_free_the_gpu_becomes_a_stop(bare_stack: Stack, fail: str) -> None:
    stack = with_sleepers(bare_stack, fail=fail)
    switched(stack, "dolphin")
    only(stack, "dolphin")
    assert "sleep.fallback" in kinds(stack)


def test_7_nobody_falls_asleep_with_a_request_in_work(bare_stack: Stack) -> None:
    stack = with_sleepers(bare_stack, token_seconds=0.02)
    run = invocation(stack, "qwen")
    generation = Generation(stack, 3000)
    switched(stack, "dolphin", "--drain", "0")
    assert not generation.ended().whole
    assert asleep(stack, "qwen")
    switched(stack, "qwen")
    assert invocation(stack, "qwen") == run, "its engine is the one that was cut off"


# -- 6, 8: waking up --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", ["wake-500", "wake-partial", "wake-garbage"])
def test_6_and_8_a_wake_that_fails_becomes_a_cold_start(bare_stack: Stack, fail: str) -> None:
    stack = with_sleepers(bare_stack, fail=fail)
    run = invocation(stack, "qwen")
    switched(stack, "dolphin")
    assert asleep(stack, "qwen")
    stack.behaviour("qwen")
    switched(stack, "qwen")
    assert invocation(stack, "qwen") != run
    assert "sleep.fallback" in kinds(stack)
    assert held(stack, "qwen") == int(16 * GIB * UTILIZATION), "nothing of the half-woken one is left"


def test_8_a_model_that_talked_garbage_is_not_put_to_sleep_again(bare_stack: Stack) -> None:
    stack = with_sleepers(bare_stack, fail="wake-garbage")
    for target in ("dolphin", "qwen"):
        switched(stack, target)
    change = switched(stack, "dolphin")
    assert "not used any more" in phase(change, "release")
    only(stack, "dolphin")


# -- 9: loading -------------------------------------------------------------------------------------------------------


def loading(stack: Stack, **behaviour: object) -> None:
    stack.write_config("80-stall.toml", '[services.dolphin.model]\nstall_timeout = "2s"\nready_timeout = "1min"\n')
    assert stack.ctl("reload").code == 0
    stack.behaviour("dolphin", **behaviour)


def test_9_a_compilation_is_long_and_no_hang(stack: Stack) -> None:
    loading(stack, compile_seconds=6.0, compile_cpu=True)
    switched(stack, "dolphin")


@pytest.mark.parametrize("stall", ["weights", "compiling"])
def test_9_a_load_that_stands_still_is_ended_and_undone(stack: Stack, stall: str) -> None:
    loading(stack, stall=stall)
    done = stack.ctl("switch-model", "dolphin")
    assert done.code == ROLLED_BACK, done
    assert "stands still" in done.err
    assert stack.answers("qwen")
    only(stack, "qwen")


# -- 10: draining -----------------------------------------------------------------------------------------------------


def test_10_a_server_that_waits_for_its_client_is_ended_by_its_limit(stack: Stack) -> None:
    """A real vLLM may lose the answer of a request that SIGTERM meets, and then waits for the client without limit."""
    stack.behaviour("qwen", token_seconds=0.05, fail="stop-hangs")
    stack.dropin(QWEN, "60-stop.conf", "[Service]\nTimeoutStopSec=2s\n")
    systemctl("daemon-reload")
    systemctl("restart", QWEN)
    stack.settled("qwen")
    generation = Generation(stack, 3000)
    switched(stack, "dolphin", "--drain", "500ms")
    assert not generation.ended().whole
    only(stack, "dolphin")


# -- 17, 18: others ---------------------------------------------------------------------------------------------------


def test_17_memory_that_another_takes_before_the_start_is_named_and_the_switch_undone(bare_stack: Stack) -> None:
    stack = bare_stack
    stack.behaviour("qwen", vram_release_seconds=1.5)
    stack.start()
    with stack.ctl_aside("switch-model", "dolphin") as process:
        until(lambda: stack.slot()["state"] == "wait-vram")
        stack.memory.claim(1, 6 * GIB, held=True)
        _, err = process.communicate(timeout=120)
    stack.memory.release(1)
    assert process.returncode != OK
    assert "6.0G" in err or "6G" in err, err
    until(lambda: not stack.open_changes())


def test_18_a_sleeper_turns_requests_away_at_once(bare_stack: Stack) -> None:
    """Asleep it would take them, and be silent; from 0.33 on a pause refuses."""
    stack = with_sleepers(bare_stack)
    switched(stack, "dolphin")
    with pytest.raises(urllib.error.HTTPError) as caught:
        stack.complete("qwen", timeout=5.0)
    assert caught.value.code == 503
    caught.value.close()


# -- 19, 20: agentd and the machine -----------------------------------------------------------------------------------


def test_19_an_agentd_that_comes_back_finds_the_sleeper(bare_stack: Stack) -> None:
    stack = with_sleepers(bare_stack)
    run = invocation(stack, "qwen")
    switched(stack, "dolphin")
    stack.restart_agentd()
    stack.settled("dolphin")
    assert asleep(stack, "qwen")
    assert switched(stack, "qwen")["way"] == "wake"
    assert invocation(stack, "qwen") == run


def test_19_agentd_killed_while_a_model_falls_asleep_leaves_one_that_serves(bare_stack: Stack) -> None:
    stack = with_sleepers(bare_stack, sleep_seconds=2.0)
    with stack.ctl_aside("switch-model", "dolphin"):
        until(lambda: asleep(stack, "qwen"))
        stack.kill_agentd()
        until(lambda: stack.pid("agentd.service") != 0)
    stack.settled("qwen")
    assert not asleep(stack, "qwen")
    assert stack.open_changes() == []
    switched(stack, "dolphin")


def test_20_a_sleeper_that_main_memory_has_no_room_for_is_stopped(bare_stack: Stack) -> None:
    stack = with_sleepers(bare_stack)
    stack.write_config("81-reserve.toml", '[slots.gpu0]\nsleep_reserve = "100T"\n')
    assert stack.ctl("reload").code == 0
    change = switched(stack, "dolphin")
    assert "main memory" in phase(change, "release")
    only(stack, "dolphin")
