"""Who works in a directory: a server makes its data directory its own working directory. Blocks, hardly."""

from __future__ import annotations

import os

from agentd.adapters.inspect_cgroup import file_text

SHELLS = frozenset(
    ("ash", "bash", "dash", "fish", "ksh", "less", "mc", "nano", "screen", "sh", "su", "sudo", "tmux", "zsh")
)
"""People stand in a directory, too."""


def server_in(directory: str, proc: str = "/proc") -> str:
    """A sentence about a process that has this working directory, in whatever mount namespace; "" when none is seen.
    Shells and we ourselves, with those who called us, do not count."""
    try:
        wanted = os.stat(directory)  # noqa: PTH116
        pids = sorted(int(name) for name in os.listdir(proc) if name.isdigit())  # noqa: PTH208
    except OSError:
        return ""
    ours = _ancestors(proc)
    for pid in pids:
        if pid not in ours and _works_in(f"{proc}/{pid}/cwd", wanted):
            name = file_text(f"{proc}/{pid}/comm").strip()
            if name.partition(":")[0] not in SHELLS:
                return f"{name or 'a process'} (process {pid}) works in {directory}"
    return ""


def _works_in(link: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(link), wanted)  # noqa: PTH116
    except OSError:
        return False


def _ancestors(proc: str) -> set[int]:
    pid, found = os.getpid(), set[int]()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = _parent(f"{proc}/{pid}/stat")
    return found


def _parent(path: str) -> int:
    """The name in parentheses may contain anything; behind it come the state and the parent."""
    fields = file_text(path).rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0
