"""Programs of a test in a process of their own: with other rights, in namespaces, traced, killed and refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

ORDINARY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
"""Before a command: root without its rights is held by the modes of files, as everybody is."""
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")
CALLS = "mkdir,mkdirat,write,fchown,fchmod,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir,flock"
"""All that changes anything. A file is also created by openat; the write that follows it is counted."""


def python(code: str, *argv: str, prefix: tuple[str, ...] = ()) -> str:
    """What it printed, or complained of; `prefix` is a command that runs another one."""
    command = [*prefix, sys.executable, "-c", code, *argv]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=env)
    return (done.stdout + done.stderr).strip()


def python_in_namespace(script: str, code: str, *argv: str) -> str:
    """... after the shell's `script` has mounted what it likes; its $1... are those of `argv`."""
    command = [*NAMESPACE, f'{script}\nexec "$PYTHON" -c "$CODE" "$@"', "sh", *argv]
    env = {**os.environ, "CODE": code, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=env)
    return (done.stdout + done.stderr).strip()


def traced(code: str, *argv: str, trace: Path, inject: str = "") -> tuple[str, list[str]]:
    """What it said, and its calls that change anything, one a line. It must have one thread: strace counts for each."""
    options = ("-qq", "-o", str(trace), "-e", f"trace={CALLS}", *(("-e", inject) if inject else ()))
    said = python(code, *argv, prefix=("strace", *options))
    lines = [line for line in trace.read_text().splitlines() if not line.startswith(("+++", "---"))]
    trace.unlink()
    return said, lines


def injections(lines: list[str], what: str) -> list[str]:
    """`what` ("signal=KILL", "error=ENOSPC") at each call of an undisturbed run, as strace wants it."""
    counts: Counter[str] = Counter()
    found = []
    for line in lines:
        name = line.partition("(")[0]
        counts[name] += 1
        found.append(f"inject={name}:{what}:when={counts[name]}")
    return found
