"""GPU memory in a switch, on real processes: what a unit asks for, a start that is tried again, who is ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from integration.looked import control
from integration.stack import Stack, until
from integration.watcher import Watcher
from privatebus import LIBRARIES
from userunits import UserUnits, systemctl

QWEN, DOLPHIN = "vllm-qwen.service", "vllm-dolphin.service"
GIB = 1024**3


@pytest.fixture
def units() -> Iterator[UserUnits]:
    made = UserUnits(f"memory{os.getpid()}")
    yield made
    made.remove()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_the_command_line_and_the_limit_are_systemd_s_own(units: UserUnits, library: str) -> None:
    command = 'ExecStart=/bin/sleep 1000 --share ${SHARE} --key=${KEY} "two words" %%'
    unit = units.service("all", command, "Environment=SHARE=0.80 KEY=hunter2", "MemoryMax=80M", "Type=simple")
    free = units.service("free", "ExecStart=/bin/sleep 1000")
    async with control(library) as systemd:
        await systemd.reload()
        state = await systemd.show(unit)
        assert state.exec_start == (
            "/bin/sleep", "1000", "--share", "0.80", "--key=${KEY}", "two words", "%",
        )  # fmt: skip
        assert state.memory_max == 80 << 20
        assert (await systemd.show(free)).memory_max is None
        assert (await systemd.show("no-such-unit.service")).exec_start == ()
        assert (await systemd.show("app.slice")).exec_start == ()


@contextmanager
def holding(stack: Stack, size: int) -> Iterator[subprocess.Popen[bytes]]:
    """A stranger with GPU memory."""
    process = subprocess.Popen(["/bin/sleep", "1000"])
    try:
        stack.memory.claim(process.pid, size)
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_budget_is_what_the_unit_asks_for(stack: Stack) -> None:
    stack.behaviour("qwen", vram_bytes=4 * GIB)
    systemctl("restart", QWEN)
    stack.settled("qwen")
    with holding(stack, 3 * GIB) as game:
        done = stack.ctl("switch-model", "dolphin")
        assert done.code == 3, done
        told = "GPU 0: dolphin needs 14.4G (0.90 of 16G, as its unit says), 12.8G of 16G can be had"
        assert f"{told}; held by others: sleep (session-1.scope, pid {game.pid}, 3G)" in done.err
        assert "lower its utilization to 0.76" in done.err
    assert stack.switch("dolphin")[0] == 0


def test_a_start_that_memory_moved_under_is_tried_once_more(stack: Stack) -> None:
    """A process gives memory back while vLLM profiles: the first start dies of it, the second one does not."""
    stack.behaviour("dolphin", load_seconds=2.0)
    with holding(stack, GIB // 2) as job, Watcher(stack) as seen, stack.ctl_aside("switch-model", "dolphin") as running:
        until(lambda: any(pid in stack.claims() for pid in stack.pids(DOLPHIN)))
        job.kill()
        job.wait()
        out, err = running.communicate(timeout=60)
        assert running.returncode == 0, (out, err)
        seen.check()
    change = stack.client.get("/v1/changes?limit=1")["changes"][0]
    assert [p["result"] for p in change["phases"] if p["phase"] == "wait-ready"] == ["retry", "pass"]
    assert "another process freed GPU memory while it was loading" in next(
        p["detail"] for p in change["phases"] if p["result"] == "retry"
    )
    assert stack.serving() == list(stack.models_up()) == ["dolphin"]


def test_an_engine_that_slips_out_of_its_cgroup_as_it_is_stopped_is_ended(stack: Stack) -> None:
    stack.behaviour("qwen", fail="orphan")
    systemctl("restart", QWEN)
    stack.settled("qwen")
    (engine,) = set(stack.claims()) & stack.pids(QWEN)
    escape = f"mkdir -p /sys/fs/cgroup/stray; echo {engine} > /sys/fs/cgroup/stray/cgroup.procs"
    stack.dropin(QWEN, "50-escape.conf", f"[Service]\nExecStop=/bin/sh -c '{escape}'\n")
    systemctl("daemon-reload")
    after = stack.last_event()
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert engine not in stack.claims()
    (event,) = [e for e in stack.events(after) if e["kind"] == "orphan.killed"]
    assert f"(pid {engine}) outlived {QWEN}, still held 14.4G of GPU 0, and was killed" in event["message"]
    assert stack.serving() == list(stack.models_up()) == ["dolphin"]


def test_what_a_crashed_server_left_in_its_cgroup_is_ended_before_the_next_start(stack: Stack) -> None:
    stack.behaviour("qwen", fail="orphan")
    stack.dropin(QWEN, "50-kill.conf", "[Service]\nKillMode=process\nRestart=no\n")
    systemctl("daemon-reload")
    systemctl("restart", QWEN)
    stack.settled("qwen")
    (engine,) = set(stack.claims()) & stack.pids(QWEN)
    os.kill(stack.pid(QWEN), 9)
    until(lambda: stack.slot()["resident"] is None)
    assert engine in stack.claims(), "systemd leaves it alone with KillMode=process"
    code, change = stack.switch("dolphin")
    assert code == 0, change
    assert engine not in stack.claims()
    assert stack.serving() == list(stack.models_up()) == ["dolphin"]
