"""Processes, cgroups and listening ports, as the Kernel port shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from agentd.ports import PortHolder, ProcessInfo


@dataclass
class FakeProcess:
    pid: int
    comm: str = "python3"
    unit: str = ""
    control_group: str = ""
    title: str = ""
    uid: int = 1000
    start: int = 0
    """0: as many ticks as its pid."""
    environment: dict[str, str] = field(default_factory=dict)


class _Watch:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def fire(self) -> None:
        if not self.closed:
            self.closed = True
            self.callback()


class FakeKernel:
    """`spawn`, `exit`, `listen` and `unlisten` change the world; the rest is the port."""

    def __init__(self, memory_available: int = 64 * 1024**3) -> None:
        self.available = memory_available
        self.cpu: dict[str, float] = {}
        """Control group -> CPU seconds."""
        self.processes: dict[int, FakeProcess] = {}
        self.listeners: dict[int, PortHolder] = {}
        self.sockets: dict[str, int] = {}
        """Unix socket -> pid of who listens on it; 0 for one that the kernel does not tell us."""
        self.exit_listeners: list[Callable[[int], None]] = []
        """Other fakes that react to an exit (GPU memory, units)."""
        self.immune: Callable[[str], bool] = lambda unit: False
        """True for a unit whose processes SIGKILL does not end (stuck in the driver)."""
        self._watches: dict[int, list[_Watch]] = {}
        self._next_pid = 1000

    # -- the world ------------------------------------------------------------------------------------------------
    def spawn(self, comm: str = "python3", *, unit: str = "", control_group: str = "") -> int:
        self._next_pid += 1
        self.processes[self._next_pid] = FakeProcess(self._next_pid, comm, unit, control_group)
        return self._next_pid

    def exit(self, pid: int) -> None:
        """The process ends: its ports close, its watchers are called in the loop."""
        if self.processes.pop(pid, None) is None:
            return
        for port in [p for p, holder in self.listeners.items() if holder.pid == pid]:
            del self.listeners[port]
        for path in [p for p, holder in self.sockets.items() if holder == pid]:
            del self.sockets[path]
        for listener in self.exit_listeners:
            listener(pid)
        for watch in self._watches.pop(pid, []):
            asyncio.get_running_loop().call_soon(watch.fire)

    def listen(self, port: int, pid: int = 0, comm: str = "", unit: str = "") -> None:
        """`pid` 0: a holder that the kernel does not tell us (another user's)."""
        process = self.processes.get(pid)
        if process is not None:
            comm, unit = comm or process.comm, unit or process.unit
        self.listeners[port] = PortHolder(port, pid, comm, unit)

    def unlisten(self, port: int) -> None:
        self.listeners.pop(port, None)

    # -- the port -------------------------------------------------------------------------------------------------
    def watch_exit(self, pid: int, callback: Callable[[], None]) -> _Watch | None:
        if pid not in self.processes:
            return None
        watch = _Watch(callback)
        self._watches.setdefault(pid, []).append(watch)
        return watch

    def cgroup_pids(self, control_group: str) -> frozenset[int]:
        if not control_group:
            return frozenset()
        prefix = control_group.rstrip("/") + "/"
        return frozenset(p.pid for p in self.processes.values() if (p.control_group + "/").startswith(prefix))

    def kill_cgroup(self, control_group: str) -> int:
        pids = self.cgroup_pids(control_group)
        for pid in sorted(pids):
            if not self.immune(self.processes[pid].unit):
                self.exit(pid)
        return len(pids)

    def unit_of(self, pid: int) -> str:
        process = self.processes.get(pid)
        return process.unit if process else ""

    def comm(self, pid: int) -> str:
        process = self.processes.get(pid)
        return process.comm if process else ""

    def variables(self, pid: int, names: Collection[str]) -> Mapping[str, str] | None:
        found = self.processes.get(pid)
        return None if found is None else {n: v for n, v in found.environment.items() if n in names}

    def process(self, pid: int) -> ProcessInfo | None:
        found = self.processes.get(pid)
        if found is None:
            return None
        return ProcessInfo(pid, found.start or pid, found.uid, found.comm, found.title or found.comm)

    def kill(self, pid: int, start: int) -> bool:
        found = self.process(pid)
        if found is None or found.start != start:
            return False
        if not self.immune(self.processes[pid].unit):
            self.exit(pid)
        return True

    def cpu_seconds(self, control_group: str) -> float:
        return self.cpu.get(control_group, 0.0)

    def port_holder(self, port: int) -> PortHolder | None:
        return self.listeners.get(port)

    def socket_holder(self, path: str) -> PortHolder | None:
        pid = self.sockets.get(path)
        if pid is None:
            return None
        process = self.processes.get(pid)
        return PortHolder(0, pid, process.comm, process.unit) if process is not None else PortHolder(0, 0, "", "")

    def memory_available(self) -> int:
        return self.available
