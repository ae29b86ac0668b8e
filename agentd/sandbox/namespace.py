"""The outside half of the sandbox: make the namespaces, hand over to the init inside, and leave nothing behind.

Everything lives in the namespaces and dies with them; what remains is one cgroup, removed at the end, or by the next
run when this process was killed. The kernel kills the inside when this process ends in whatever way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentd.sandbox import cgroup, kernel, requirements

PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SI_USER = 0
"""`si_code` of a signal sent by kill(2); one typed at the terminal reached the inside already."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the init inside is told to do."""

    cgroup: str
    argv: tuple[str, ...]
    """The command; empty for a shell-less sandbox that only stays up."""
    python: str
    """Runs the stand-ins: the standard library is enough for them."""
    interpreter: str
    """Runs agentd and agentctl: this installation's, perhaps of a virtual environment."""
    bare: bool = True
    keep: str = ""
    """A directory that becomes HOME and survives; empty for one in memory."""
    cwd: str = "/"


class Sandbox:
    """One sandbox from outside: start it, pass signals on, wait for its end."""

    def __init__(self, parent: Path) -> None:
        cgroup.sweep(parent)
        self._cgroup = cgroup.create(parent)

    def run(self, argv: tuple[str, ...], *, bare: bool, keep: str = "") -> int:
        """Exit code of the command inside, or 128 + signal number."""
        blocked = {*_FORWARDED, signal.SIGCHLD}
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        ours, theirs = socket.socketpair()
        plan = Plan(
            cgroup=str(self._cgroup),
            argv=argv,
            python=os.path.realpath(sys.executable),
            interpreter=sys.executable,
            bare=bare,
            keep=keep,
            cwd=str(Path.cwd()),
        )
        try:
            with ours:
                with theirs:
                    fd = theirs.fileno()
                    process = subprocess.Popen(
                        _unshare(plan.python, fd), pass_fds=(fd,), preexec_fn=_Child(os.getpid())
                    )
                ours.sendall(json.dumps(asdict(plan)).encode() + b"\n")
                return _exit_code(_attend(process, ours, blocked))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            self.close()

    def close(self) -> None:
        if not cgroup.remove(self._cgroup):
            print(f"agentctl: cannot remove {self._cgroup}: processes in it do not end", file=sys.stderr)


class _Child:
    """Runs in the forked child: die with the parent, and start with a clean signal mask."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self) -> None:
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != self._parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _unshare(python: str, control: int) -> list[str]:
    """The init gets its plan over the control socket, not in its arguments, where `ps` would show it."""
    program = requirements.find_tool("unshare") or "unshare"
    user = ["--user", "--map-current-user", "--keep-caps"] if os.geteuid() != 0 else []
    flags = ["--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private"]
    start = "import sys; sys.path.insert(0, sys.argv[1]); from agentd.sandbox.inner import main; main(int(sys.argv[2]))"
    return [program, *user, *flags, "--", python, "-I", "-S", "-c", start, str(PACKAGE_PARENT), str(control)]


def _attend(process: subprocess.Popen[Any], control: socket.socket, blocked: set[signal.Signals]) -> int:
    """Pass signals on until the inside has ended; its return code as Popen gives it."""
    while True:
        info = signal.sigwaitinfo(blocked)
        if info is not None and info.si_signo != signal.SIGCHLD:
            if info.si_code == _SI_USER or info.si_signo != signal.SIGINT:
                with contextlib.suppress(OSError):
                    control.send(bytes([info.si_signo]))
            continue
        code = process.poll()
        if code is not None:
            return code


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode
