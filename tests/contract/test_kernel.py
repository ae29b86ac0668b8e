"""Processes by the Kernel port: the fake and the real one tell and do the same of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from fakes.kernel import FakeKernel

from agentd.adapters.kernel import LinuxKernel
from agentd.ports import Kernel

TITLE = "VLLM::EngineCore"


class Machine(Protocol):
    """Where processes can be made and ended."""

    kernel: Kernel
    uid: int

    def spawn(self, title: str = "") -> int: ...
    def end(self, pid: int) -> None:
        """It ends, and nobody has asked yet how."""
        ...

    def alive(self, pid: int) -> bool: ...

    def use_cpu(self, seconds: float) -> str:
        """A cgroup that has used so much CPU time."""
        ...


class RealMachine:
    def __init__(self, tmp_path: Path) -> None:
        self.kernel: Kernel = LinuxKernel()
        self.uid = os.getuid()
        self._tmp = tmp_path
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def spawn(self, title: str = "") -> int:
        child = subprocess.Popen([title or "sleep", "1000"], executable="/bin/sleep")
        self._children[child.pid] = child
        # Popen returns from within the exec, when the new arguments cannot be read yet.
        while not Path(f"/proc/{child.pid}/cmdline").read_bytes():
            os.sched_yield()
        return child.pid

    def end(self, pid: int) -> None:
        self._children[pid].kill()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def alive(self, pid: int) -> bool:
        return self._children[pid].poll() is None

    def use_cpu(self, seconds: float) -> str:
        """A tree of its own: which cgroups a test machine has, nobody knows."""
        mount = self._tmp / "cgroup"
        (mount / "app.slice/x.service").mkdir(parents=True)
        (mount / "app.slice/x.service/cpu.stat").write_text(f"usage_usec {int(seconds * 1e6)}\nuser_usec 1\n")
        (self._tmp / "self").mkdir()
        (self._tmp / "self/mountinfo").write_text(f"1 2 0:3 / {mount} rw - cgroup2 cgroup2 rw\n")
        self.kernel = LinuxKernel(str(self._tmp))
        return "/app.slice/x.service"

    def close(self) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()


class FakeMachine:
    def __init__(self) -> None:
        self.fake = FakeKernel()
        self.kernel: Kernel = self.fake
        self.uid = 1000

    def spawn(self, title: str = "") -> int:
        pid = self.fake.spawn("sleep")
        self.fake.processes[pid].title = f"{title or 'sleep'} 1000"
        return pid

    def end(self, pid: int) -> None:
        self.fake.exit(pid)

    def alive(self, pid: int) -> bool:
        return pid in self.fake.processes

    def use_cpu(self, seconds: float) -> str:
        self.fake.cpu["/app.slice/x.service"] = seconds
        return "/app.slice/x.service"


@pytest.fixture(params=["real", "fake"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    if request.param == "fake":
        yield FakeMachine()
        return
    real = RealMachine(tmp_path)
    yield real
    real.close()


def test_a_process_is_told_with_what_identifies_it(machine: Machine) -> None:
    pid = machine.spawn(TITLE)
    info = machine.kernel.process(pid)
    assert info is not None
    assert (info.pid, info.uid, info.comm, info.title) == (pid, machine.uid, "sleep", f"{TITLE} 1000")
    assert info.start > 0
    assert machine.kernel.process(pid) == info, "the start never changes"


def test_one_that_has_ended_is_not_told_even_as_a_zombie(machine: Machine) -> None:
    pid = machine.spawn()
    info = machine.kernel.process(pid)
    machine.end(pid)
    assert machine.kernel.process(pid) is None
    assert info is not None
    assert not machine.kernel.kill(pid, info.start)


def test_who_has_another_start_time_is_not_killed(machine: Machine) -> None:
    pid = machine.spawn()
    info = machine.kernel.process(pid)
    assert info is not None
    assert not machine.kernel.kill(pid, info.start - 1)
    assert not machine.kernel.kill(pid, 0)
    assert machine.alive(pid)
    assert machine.kernel.kill(pid, info.start)
    _gone(machine, pid)


def _gone(machine: Machine, pid: int) -> None:
    """SIGKILL is delivered at once, its effect a moment later."""
    if isinstance(machine, RealMachine):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not machine.alive(pid)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_a_pid_that_cannot_be_is_nobody(machine: Machine, pid: int) -> None:
    assert machine.kernel.process(pid) is None
    assert not machine.kernel.kill(pid, 1)


def test_cpu_time_of_a_cgroup(machine: Machine) -> None:
    group = machine.use_cpu(12.5)
    assert machine.kernel.cpu_seconds(group) == 12.5
    assert machine.kernel.cpu_seconds("/app.slice/gone.service") == 0.0
    assert machine.kernel.cpu_seconds("") == 0.0


def test_a_process_of_somebody_else_is_not_ours_to_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the real one can be refused; whoever runs the tests may be root."""
    import signal

    def refuse(_fd: int, _signal: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    child = subprocess.Popen(["/bin/sleep", "1000"])
    try:
        kernel = LinuxKernel()
        info = kernel.process(child.pid)
        assert info is not None
        assert not kernel.kill(child.pid, info.start)
    finally:
        monkeypatch.undo()
        child.kill()
        child.wait()
