"""LinuxKernel on this machine's own processes and sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from agentd.adapters.kernel import LinuxKernel
from agentd.errors import AgentdError


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "1000"])


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_exit_is_called_back_once() -> None:
    process = sleeper()
    fds, calls, ended = open_fds(), [], asyncio.Event()
    watch = LinuxKernel().watch_exit(process.pid, lambda: (calls.append(1), ended.set()))
    assert watch is not None
    process.kill()
    await asyncio.wait_for(ended.wait(), 5)
    process.wait()
    watch.close()
    watch.close()
    await asyncio.sleep(0)
    assert calls == [1]
    assert open_fds() == fds


async def test_closed_watch_stays_silent() -> None:
    process = sleeper()
    fds, calls = open_fds(), []
    kernel = LinuxKernel()
    silent = kernel.watch_exit(process.pid, lambda: calls.append("silent"))
    ended = asyncio.Event()
    kernel.watch_exit(process.pid, ended.set)
    assert silent is not None
    silent.close()
    process.kill()
    await asyncio.wait_for(ended.wait(), 5)
    process.wait()
    assert calls == []
    assert open_fds() == fds


async def test_gone_and_impossible_pids() -> None:
    process = sleeper()
    process.kill()
    process.wait()
    kernel = LinuxKernel()
    for pid in (process.pid, 0, -1):
        assert kernel.watch_exit(pid, lambda: None) is None
    assert kernel.comm(process.pid) == ""
    assert kernel.unit_of(process.pid) == ""


async def test_no_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(AgentdError, match="cannot watch process 1: too many open files"):
        LinuxKernel().watch_exit(1, lambda: None)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_port_holder_of_a_real_listener(family: socket.AddressFamily, host: str) -> None:
    kernel = LinuxKernel()
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        port = listener.getsockname()[1]
        assert kernel.port_holder(port) is None, "bound is not listening"
        listener.listen()
        holder = kernel.port_holder(port)
        assert holder is not None
        assert (holder.port, holder.pid, holder.comm) == (port, os.getpid(), kernel.comm(os.getpid()))
    assert kernel.port_holder(port) is None


def test_port_holder_that_we_may_not_see(tmp_path: Path) -> None:
    """A listener whose process is hidden from us is still a listener."""
    (tmp_path / "net").mkdir()
    line = "0: 0100007F:1F41 00000000:0000 0A 0:0 00:0 0 0 0 4711 1"
    (tmp_path / "net/tcp").write_text(f"header\n{line}\n")
    (tmp_path / "1").mkdir()
    holder = LinuxKernel(str(tmp_path)).port_holder(8001)
    assert holder is not None
    assert (holder.pid, holder.comm, holder.unit) == (0, "", "")


def test_cgroup_of_a_tree(tmp_path: Path) -> None:
    """A cgroup, its children, and one that vanished while we looked."""
    mount = tmp_path / "cgroup"
    group = mount / "app.slice/x.service"
    (group / "sub/deeper").mkdir(parents=True)
    (group / "cgroup.procs").write_text("1\n2\n")
    (group / "sub/deeper/cgroup.procs").write_text("3\n0\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(f"1 2 0:3 / {mount} rw - cgroup2 cgroup2 rw\n")
    kernel = LinuxKernel(str(tmp_path))
    assert kernel.cgroup_pids("/app.slice/x.service") == {1, 2, 3}
    assert kernel.cgroup_pids("/app.slice/y.service") == frozenset()
    assert kernel.cgroup_pids("") == frozenset()
    assert kernel.kill_cgroup("") == 0
    assert kernel.kill_cgroup("/") == 0, "never the whole machine"


def test_memory_available() -> None:
    assert LinuxKernel().memory_available() > 1 << 20
