"""Runs inside a service and says what it could do there: one JSON object, by act. Nothing but the standard library.

inside.py VERB:ARGUMENT...    "ok", the errno's name, or what was counted
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

MEBIBYTE = 1 << 20


def own_cgroup() -> Path:
    return Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().partition("::")[2].lstrip("/")


def write(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    return "ok"


def read(path: str) -> str:
    os.close(os.open(path, os.O_RDONLY))
    return "ok"


def device(path: str) -> str:
    os.close(os.open(path, os.O_RDWR))
    return "ok"


def connect(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    return "ok"


def escape(path: str) -> str:
    """Lets the user's manager make a file. Who calls looks whether it is there."""
    command = ("systemd-run", "--user", "--quiet", "--wait", "/usr/bin/touch", path)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "ok" if done.returncode == 0 else "refused"


def eat(amount: str) -> str:
    """Memory, in MiB, in this process."""
    return f"{len([bytearray(b'x') * MEBIBYTE for _ in range(int(amount))])}"


def child_eats(amount: str) -> str:
    """In a child: "ok", or the signal that it was killed by."""
    child = os.fork()
    if child == 0:
        eat(amount)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "ok"


def fork(limit: str) -> str:
    """Children at the same time, until no more can be made: their number and the errno."""
    children, why = [], "ok"
    try:
        for _ in range(int(limit)):
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    except OSError as error:
        why = errno.errorcode[error.errno or 0]
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return f"{len(children)} {why}"


def spin(seconds: str) -> str:
    """CPU seconds that the cgroup used, for each second that went by; and how often it was held back."""
    before, start = cpu_stat(), time.monotonic()
    while time.monotonic() - start < float(seconds):
        pass
    wall, after = time.monotonic() - start, cpu_stat()
    used = (after["usage_usec"] - before["usage_usec"]) / 1e6
    return f"{used / wall:.4f} {after.get('nr_throttled', 0) - before.get('nr_throttled', 0)}"


def cpu_stat() -> Mapping[str, int]:
    lines = (own_cgroup() / "cpu.stat").read_text().splitlines()
    return {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}


def cgroup(file: str) -> str:
    return (own_cgroup() / file).read_text().strip()


VERBS: Mapping[str, Callable[[str], str]] = {
    f.__name__: f for f in (write, read, device, connect, escape, eat, child_eats, fork, spin, cgroup)
}


def attempt(act: str) -> str:
    verb, _, argument = act.partition(":")
    try:
        return VERBS[verb](argument)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


if __name__ == "__main__":
    print(json.dumps({act: attempt(act) for act in sys.argv[1:]}))
