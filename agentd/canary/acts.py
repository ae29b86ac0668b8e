"""What the canary can try. Each function tries one thing: it returns a detail when it was allowed, raises OSError when
it was refused and Untried when it could not be tried. None of them changes anything that outlives it.

Stand-alone like `calls`, whose names it uses. What is tried with files and sockets is in `world`.
"""

# ruff: noqa: PTH115, PTH116, PTH123
# pathlib is not worth its start time here.

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable
from typing import Any

from agentd.canary.calls import NAMESPACES, NOT_FOR_UNSHARE, Untried, last_error, libc, raw_call, reaches, system_call
from agentd.canary.world import (
    bind,
    bus,
    device,
    execute,
    exists,
    notify,
    read,
    send_to,
    signal_to,
    systemd_run,
    writable_mount,
    write,
)


def call(name: str) -> str:
    return reaches(name)


def unshare(kind: str) -> str:
    return reaches("unshare", NAMESPACES[kind] | NOT_FOR_UNSHARE)


def enter(kind: str) -> str:
    return reaches("setns", -1, NAMESPACES[kind])


def family(number: str) -> str:
    """A type of socket that does not exist: EINVAL before the family's module is even looked for."""
    return reaches("socket", int(number), 0x7F000000)


def set_id_bit(_: str) -> str:
    return reaches("fchmod", -1, 0o4755)


def realtime(_: str) -> str:
    """SCHED_FIFO with priority 0, which is EINVAL for everybody."""
    import ctypes

    parameters = (ctypes.c_int * 1)(0)
    return reaches("sched_setscheduler", 0, 1, ctypes.addressof(parameters))


def personality(_: str) -> str:
    """This process without address randomisation from its next exec on; it never execs."""
    system_call("personality", (0x0040000,))
    return ""


def kernel_log(_: str) -> str:
    return f"{system_call('syslog', (10, 0, 0))} bytes"


def foreign_abi(_: str) -> str:
    """getpid of x32, the other ABI that a 64-bit process of x86 can call without more ado."""
    if os.uname().machine != "x86_64":
        raise Untried("this machine has no other ABI that can be called as easily")
    try:
        raw_call(0x40000000 | 39, ())
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return "reached the kernel, which does not serve x32"
    return "x32 works"


def _pages(protection: int) -> tuple[Any, int]:
    library = libc()
    import ctypes

    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long]
    address = library.mmap(None, 4096, protection, 0x22, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise last_error()
    return library, address


def map_writable_executable(_: str) -> str:
    _pages(7)
    return ""


def make_executable(_: str) -> str:
    library, address = _pages(3)
    library.mprotect.argtypes = library.mmap.argtypes[:3]
    if library.mprotect(address, 4096, 5):
        raise last_error()
    return ""


def open_files(count: str) -> str:
    """As many descriptors as it takes to have more than `count`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened: list[int] = []
    try:
        while len(opened) <= int(count):
            opened.append(os.dup(0))
    finally:
        for number in opened:
            with contextlib.suppress(OSError):
                os.close(number)
    return ""


def identity(what: str) -> str:
    """What another process sees as another thing: a path, a namespace ("ns/net"), the session keyring."""
    if what == "keyring":
        return str(system_call("keyctl", (0, -3, 0, 0, 0)))
    if what.startswith("ns/"):
        return os.readlink(f"/proc/self/{what}")
    found = os.stat(what)
    return f"{found.st_dev}:{found.st_ino}"


def value(what: str) -> str:
    if what == "umask":
        return f"{os.umask(0o077):04o}"
    if what.startswith("limit-"):
        return "{} {}".format(*resource.getrlimit(getattr(resource, "RLIMIT_" + what[6:])))
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        found = [line.partition(":")[2].strip() for line in file if line.startswith(what + ":")]
    if not found:
        raise Untried(f"/proc/self/status has no {what}")
    return found[0]


ACTS: dict[str, Callable[[str], str]] = {
    "bind": bind,
    "bus": bus,
    "call": call,
    "device": device,
    "enter": enter,
    "execute": execute,
    "exists": exists,
    "family": family,
    "foreign-abi": foreign_abi,
    "identity": identity,
    "kernel-log": kernel_log,
    "mmap-wx": map_writable_executable,
    "mprotect-x": make_executable,
    "mount": writable_mount,
    "notify": notify,
    "open-files": open_files,
    "personality": personality,
    "read": read,
    "realtime": realtime,
    "send": send_to,
    "set-id": set_id_bit,
    "signal": signal_to,
    "systemd-run": systemd_run,
    "unshare": unshare,
    "value": value,
    "write": write,
}
