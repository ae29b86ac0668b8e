"""Start and reap processes as pid 1: everything that loses its parent in the sandbox ends up here."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentd.sandbox import kernel

_BEFORE_EXEC_FAILED = 127
_LISTEN_START = 3
_HANDLED = (signal.SIGCHLD, signal.SIGIO, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LOG_DIRECTORY = "/run/agentd-sandbox"
CGROUP_ROOT = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Spawn:
    """A process to start in the child cgroup `cgroup`, with its output in a log file or on our terminal."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cgroup: str
    cwd: str = "/"
    log: str = ""
    terminal: bool = False
    listen: Sequence[int] = ()
    """Sockets handed over as sd_listen_fds(3) expects them."""


class Reaper:
    """`wait` sleeps until a child ended, the control socket or one of the given files has something to read."""

    def __init__(self, control: int) -> None:
        self._control = control
        self._statuses: dict[int, int | None] = {}
        self.notified = False
        """Whether a SIGIO ended the last wait."""
        self._alarm, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        # Handlers, not SIG_IGN: exec sets handled signals back to the default for the children.
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)

    def spawn(self, what: Spawn) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                _become(what)
            except OSError as error:
                os.write(2, f"agentctl: cannot run {what.argv[0]}: {error.strerror}\n".encode())
            finally:
                os._exit(_BEFORE_EXEC_FAILED)
        self._statuses[pid] = None
        return pid

    def status(self, pid: int) -> int | None:
        """The wait status of a child of ours that has ended, else None."""
        self._reap()
        return self._statuses.get(pid)

    def wait(self, files: Sequence[int], deadline: float | None) -> list[int]:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([self._alarm, self._control, *files], [], [], timeout)
        self.notified = self._alarm in ready and signal.SIGIO in os.read(self._alarm, 512)
        return [f for f in ready if f != self._alarm]

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._statuses:
                self._statuses[pid] = status


def _become(what: Spawn) -> None:
    Path(CGROUP_ROOT, what.cgroup, "cgroup.procs").write_text("0")
    if not what.terminal:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        log = os.open(f"{LOG_DIRECTORY}/{what.log}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
    env = {**what.env, **_hand_over(what.listen)}
    kernel.drop_ambient_capabilities()
    os.chdir(what.cwd if Path(what.cwd).is_dir() else "/")
    os.execvpe(what.argv[0], list(what.argv), env)


def _hand_over(sockets: Sequence[int]) -> dict[str, str]:
    """Put the sockets at file descriptors 3 and up."""
    if not sockets:
        return {}
    copies = [fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, _LISTEN_START + len(sockets)) for s in sockets]
    for offset, copy in enumerate(copies):
        os.dup2(copy, _LISTEN_START + offset, inheritable=True)
    return {"LISTEN_FDS": str(len(sockets)), "LISTEN_PID": str(os.getpid())}
