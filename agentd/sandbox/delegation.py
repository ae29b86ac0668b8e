"""A delegated cgroup from the machine's own systemd: the sandbox starts itself again inside a scope."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agentd.sandbox import cgroup, requirements

MARK = "AGENTD_SANDBOX_SCOPE"


def obtain() -> Path | None:
    """The cgroup below which the sandbox's goes, or None when there is none.

    Where a systemd is there to ask, this process is replaced by itself in a transient scope first. That is the tidy
    place for root too: the machine's manager owns the top of the tree, and drops the scope even after a SIGKILL.
    """
    mount = cgroup.mount_point()
    if mount is None:
        return None
    if os.environ.pop(MARK, None):
        return _step_aside(cgroup.current(mount))
    user = os.geteuid() != 0
    if not (user and cgroup.writable(cgroup.current(mount))):
        _enter_scope(user)
    return cgroup.parent(mount)


def _enter_scope(user: bool) -> None:
    """Does not return where systemd answers."""
    run = requirements.find_tool("systemd-run")
    if run is None or not _answers(user):
        return
    scope = ["--user"] if user else []
    argv = [run, *scope, "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--", *_myself()]
    sys.stdout.flush()
    os.execve(run, argv, {**os.environ, MARK: "1"})


def _myself() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _answers(user: bool) -> bool:
    systemctl = requirements.find_tool("systemctl")
    if systemctl is None:
        return False
    argv = [systemctl, "--user" if user else "--system", "show", "--property=Version"]
    try:
        return subprocess.run(argv, capture_output=True, timeout=5, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _step_aside(scope: Path) -> Path:
    """Leave the scope's own cgroup for a child of it: only an inner node without processes may pass controllers on."""
    outside = scope / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "cgroup.procs").write_text(str(os.getpid()))
    cgroup.delegate(scope)
    return scope
