"""procfs, cgroupfs and pidfds: what the kernel says, without asking systemd."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from agentd.adapters import sock_diag
from agentd.core import procfs
from agentd.errors import AgentdError
from agentd.ports import PortHolder, ProcessInfo

logger = logging.getLogger(__name__)

_KILL_ROUNDS = 20
_PROC = Path("/proc")


class PidWatch:
    """The ExitWatch port on a pidfd: no signal, no polling, and it works while the bus is away."""

    def __init__(self, fd: int, callback: Callable[[], None]) -> None:
        self._fd = fd
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._ended)

    def close(self) -> None:
        """Idempotent; the callback does not come after it."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ended(self) -> None:
        self.close()
        self._callback()


class LinuxKernel:
    """The Kernel port. `proc` is another directory only in tests."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = Path(proc)
        self._mounts: tuple[procfs.CgroupMount, ...] = ()

    def watch_exit(self, pid: int, callback: Callable[[], None]) -> PidWatch | None:
        if pid <= 0:
            return None
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            raise AgentdError("kernel", f"cannot watch process {pid}: {(error.strerror or '').lower()}") from error
        return PidWatch(fd, callback)

    def cgroup_pids(self, control_group: str) -> frozenset[int]:
        directory = self._cgroup(control_group)
        return _pids_below(directory) if directory else frozenset()

    def kill_cgroup(self, control_group: str) -> int:
        directory = self._cgroup(control_group)
        if not directory:
            return 0
        held = _pids_below(directory)
        if held and not _kill_at_once(directory):
            _kill_each(directory)
        return len(held)

    def unit_of(self, pid: int) -> str:
        return procfs.unit_of_cgroup(procfs.cgroup_path(self._text(f"{pid}/cgroup")))

    def comm(self, pid: int) -> str:
        return self._text(f"{pid}/comm").rstrip("\n")

    def variables(self, pid: int, names: Collection[str]) -> Mapping[str, str] | None:
        if pid <= 0:
            return None
        text = self._text(f"{pid}/environ")
        if not text:
            return None
        found = (entry.partition("=") for entry in text.split("\0"))
        return {name: value for name, _, value in found if name in names}

    def process(self, pid: int) -> ProcessInfo | None:
        found = procfs.process_stat(self._text(f"{pid}/stat"))
        if found is None or found.state in "ZX":
            return None
        uid = procfs.status_uid(self._text(f"{pid}/status"))
        title = self._text(f"{pid}/cmdline").replace("\0", " ").strip()
        return ProcessInfo(pid, found.start, uid, self.comm(pid), title)

    def kill(self, pid: int, start: int) -> bool:
        """The pidfd is taken first: what it names cannot become another process between the look and the signal."""
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            found = self.process(pid)
            if found is None or found.start != start:
                return False
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def cpu_seconds(self, control_group: str) -> float:
        directory = self._cgroup(control_group)
        try:
            text = Path(directory, "cpu.stat").read_text() if directory else ""
        except OSError:
            return 0.0
        return procfs.cpu_usage(text)

    def port_holder(self, port: int) -> PortHolder | None:
        inodes = self._listening(port)
        if not inodes:
            return None
        pid = self._owner_of({f"socket:[{inode}]" for inode in inodes})
        return PortHolder(port, pid, self.comm(pid), self.unit_of(pid)) if pid else PortHolder(port, 0, "", "")

    def _listening(self, port: int) -> frozenset[int]:
        """Inodes of the sockets that listen on the port."""
        if self._proc == _PROC:
            with suppress(sock_diag.Unavailable):
                found = list(sock_diag.listeners(port))
                return frozenset(inode for address, inode in found if procfs.is_local(address))
        return procfs.listening_inodes((self._text("net/tcp"), self._text("net/tcp6")), port)

    def socket_holder(self, path: str) -> PortHolder | None:
        pid = sock_diag.unix_listener(path)
        if pid is None:
            return None
        return PortHolder(0, pid, self.comm(pid), self.unit_of(pid)) if pid else PortHolder(0, 0, "", "")

    def memory_available(self) -> int:
        return procfs.mem_available(self._text("meminfo"))

    def _cgroup(self, control_group: str) -> str:
        """The directory of an existing cgroup, or ""; never that of the root."""
        if not control_group.strip("/"):
            return ""
        for mount in self._cgroup_mounts():
            directory = procfs.cgroup_directory(mount, control_group)
            if directory and os.path.isdir(directory):  # noqa: PTH112 - hot in drains, no Path objects
                return directory
        return ""

    def _cgroup_mounts(self) -> tuple[procfs.CgroupMount, ...]:
        if not self._mounts:
            self._mounts = procfs.cgroup_mounts(self._text("self/mountinfo"))
            if not self._mounts:
                logger.warning("no cgroup hierarchy of systemd is mounted: leftover processes cannot be seen")
        return self._mounts

    def _owner_of(self, links: set[str]) -> int:
        """A process that has one of these sockets open, looking at the youngest first, since it is mostly a server
        that has just started; 0 when we may not see it."""
        pids = (int(name) for name in os.listdir(self._proc) if name.isdigit())  # noqa: PTH208 - thousands per call
        for pid in sorted(pids, reverse=True):
            if any(link in links for link in _open_files(f"{self._proc}/{pid}")):
                return pid
        return 0

    def _text(self, name: str) -> str:
        """A file below /proc; "" when it has gone or is not ours to read."""
        try:
            return (self._proc / name).read_text(errors="replace")
        except OSError:
            return ""


def _pids_below(directory: str) -> frozenset[int]:
    """Of a cgroup and all below it. Cgroups may vanish meanwhile, threaded ones refuse."""
    found: set[int] = set()
    for folder, _, _ in os.walk(directory):
        with suppress(OSError), open(f"{folder}/cgroup.procs") as file:  # noqa: PTH123 - hot in drains
            found |= procfs.pids(file.read())
    return frozenset(found)


def _kill_at_once(directory: str) -> bool:
    """By the kernel, which no fork can outrun; False before Linux 5.14 and on cgroup v1."""
    try:
        with open(f"{directory}/cgroup.kill", "w") as file:  # noqa: PTH123
            file.write("1")
    except OSError:
        return False
    return True


def _kill_each(directory: str) -> None:
    """One by one, again while new ones appear, but not for ever."""
    killed: set[int] = set()
    for _ in range(_KILL_ROUNDS):
        fresh = _pids_below(directory) - killed
        if not fresh:
            return
        for pid in fresh:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= fresh


def _open_files(process: str) -> Iterator[str]:
    try:
        names = os.listdir(f"{process}/fd")  # noqa: PTH208 - thousands per call
    except OSError:
        return
    for name in names:
        with suppress(OSError):  # closed meanwhile
            yield os.readlink(f"{process}/fd/{name}")  # noqa: PTH115 - thousands per call
