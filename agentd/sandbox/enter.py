"""`agentctl sandbox --enter`: a command inside a sandbox that is already running."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from agentd.sandbox import cgroup, requirements

ENVIRONMENT = "run/agentd-sandbox/environment.json"


def find() -> tuple[int, Path] | None:
    """The init of the newest running sandbox that this user may enter, and its cgroup."""
    mount = cgroup.mount_point()
    if mount is None:
        return None
    found = []
    for path in mount.rglob(cgroup.PREFIX + "*"):
        try:
            pids = [int(p) for p in (path / "init.scope/cgroup.procs").read_text().split()]
            found += [(path.stat().st_mtime, pid, path) for pid in pids if _is_init(pid)]
        except OSError:
            continue
    if not found:
        return None
    _, pid, path = max(found)
    return pid, path


def _is_init(pid: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1] == "1" and os.access(f"/proc/{pid}/ns/mnt", os.R_OK)
    return False


def enter(command: tuple[str, ...]) -> int:
    """Becomes the command; returns only when that is not possible."""
    sandbox = find()
    program = requirements.find_tool("nsenter")
    if sandbox is None or program is None:
        what = "no sandbox of yours is running" if sandbox is None else "no nsenter program (apt install util-linux)"
        print(f"agentctl: cannot enter a sandbox: {what}", file=sys.stderr)
        return 1
    pid, _ = sandbox
    environment = json.loads(Path(f"/proc/{pid}/root", ENVIRONMENT).read_text())
    environment |= {k: os.environ[k] for k in ("TERM", "COLORTERM", "NO_COLOR") if k in os.environ}
    user = ["--user", "--preserve-credentials"] if os.geteuid() != 0 else []
    argv = [program, f"--target={pid}", *user, "--mount", "--uts", "--net", "--pid", "--cgroup", "--", "/bin/sh", "-c"]
    argv += ['cd "$HOME" && exec "$@"', "sh", *(command or (environment.get("SHELL", "/bin/sh"),))]
    return os.execve(program, argv, environment)
