"""System calls whose arguments are wrong on purpose, so that nothing happens wherever they arrive.

Stand-alone, the standard library alone: this text and that of `program` are joined and run by a bare interpreter inside
a service's sandbox.

A seccomp filter answers before the kernel looks at the arguments it does not filter on, so the error tells the two
apart: the kernel's EFAULT, EINVAL, EBADF, ESRCH, E2BIG or EOPNOTSUPP means that the call got through, whatever the
privileges; anything else is a refusal. Left out on purpose: what would act before it checks (acct with a null pointer
ends accounting, vhangup, sync) and what no mistake makes entirely harmless (reboot, kexec).
"""

from __future__ import annotations

import errno
import os
from typing import Any

REACHED = frozenset(
    {errno.EFAULT, errno.EINVAL, errno.EBADF, errno.ESRCH, errno.E2BIG, errno.EOPNOTSUPP, errno.ENOEXEC}
)
BAD = 0x7FFFFFFF
"""Not a flag, command, clock or protocol that any kernel knows."""

CALLS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    # name: number on x86-64, number on arm64 and riscv64 (-1: there is none), arguments.
    "add_key": (248, 217, (0, 0, 0, 1 << 30, 0)),  # a payload of 1 GiB: EINVAL
    "adjtimex": (159, 171, (0,)),  # EFAULT
    "bpf": (321, 280, (9999, 0, 1 << 20)),  # attributes longer than a page: E2BIG
    "capset": (126, 91, (0, 0)),  # EFAULT
    "chroot": (161, 51, (0,)),  # EFAULT
    "clock_adjtime": (305, 266, (BAD, 0)),  # EFAULT
    "clock_settime": (227, 112, (BAD, 0)),  # EINVAL: no such clock
    "fanotify_init": (300, 262, (BAD, 0)),  # EINVAL
    "fchown": (93, 55, (-1, -1, -1)),  # EBADF
    "init_module": (175, 105, (0, 0, 0)),  # EPERM, and ENOEXEC for root: nothing is no module
    "io_uring_setup": (425, 425, (0, 0)),  # EFAULT
    "ioperm": (173, -1, (0, 0, 0)),  # EINVAL: no port at all
    "kcmp": (312, 272, (-1, -1, 0, 0, 0)),  # ESRCH
    "keyctl": (250, 219, (9999, 0, 0, 0, 0)),  # EOPNOTSUPP
    "memfd_create": (319, 279, (0, BAD)),  # EINVAL
    "mount": (165, 40, (0, 0, 0, 0, 0)),  # EFAULT
    "name_to_handle_at": (303, 264, (-1, 0, 0, 0, BAD)),  # EINVAL
    "open_tree": (428, 428, (-1, 0, BAD)),  # EINVAL
    "perf_event_open": (298, 241, (0, 0, 0, 0, -1)),  # EINVAL
    "pidfd_open": (434, 434, (-1, 0)),  # EINVAL
    "process_vm_readv": (310, 270, (-1, 0, 0, 0, 0, 1)),  # EINVAL
    "process_vm_writev": (311, 271, (-1, 0, 0, 0, 0, 1)),  # EINVAL
    "ptrace": (101, 117, (7, 0, 0, 0)),  # PTRACE_CONT of pid 0: ESRCH
    "request_key": (249, 218, (0, 0, 0, 0)),  # EFAULT
    "sched_setattr": (314, 274, (0, 0, 1)),  # EINVAL
    "setns": (308, 268, (-1, 0)),  # EBADF
    "setpriority": (141, 140, (99, 0, 0)),  # EINVAL
    "settimeofday": (164, 170, (1, 0)),  # EFAULT
    "setuid": (105, 146, (-1,)),  # EINVAL
    "swapon": (167, 224, (0, BAD)),  # EINVAL
    "umount2": (166, 39, (0, BAD)),  # EINVAL
    "userfaultfd": (323, 282, (BAD,)),  # EINVAL
}

NUMBERS = {"unshare": (272, 97), "setns": (308, 268), "socket": (41, 198), "fchmod": (91, 52), "keyctl": (250, 219)}
NUMBERS |= {"personality": (135, 92), "sched_setscheduler": (144, 119), "syslog": (103, 116)}

NAMESPACES = {"cgroup": 0x2000000, "ipc": 0x8000000, "net": 0x40000000, "mnt": 0x20000, "pid": 0x20000000}
NAMESPACES |= {"user": 0x10000000, "uts": 0x4000000}
NOT_FOR_UNSHARE = 0x00100000
"""CLONE_PARENT_SETTID. The kernel looks for unknown flags before it makes any namespace."""


class Untried(Exception):
    """The act could not be tried; says why."""


def system_call(name: str, arguments: tuple[int, ...]) -> int:
    """The result; raises OSError with the errno, Untried where this machine's numbers are not known."""
    machine = os.uname().machine
    if machine not in ("x86_64", "aarch64", "riscv64"):
        raise Untried(f"the system calls of {machine} are not known here")
    native, generic = NUMBERS.get(name) or CALLS[name][:2]
    number = native if machine == "x86_64" else generic
    if number < 0:
        raise Untried(f"{machine} has no {name}")
    return raw_call(number, arguments)


def raw_call(number: int, arguments: tuple[int, ...]) -> int:
    library = libc()
    import ctypes

    result = int(library.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments)))
    if result == -1:
        raise last_error()
    return result


def last_error() -> OSError:
    import ctypes

    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def libc() -> Any:
    try:
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError) as error:
        raise Untried(f"no ctypes: {error}") from None
    library.syscall.restype = ctypes.c_long
    return library


def reaches(name: str, *arguments: int) -> str:
    """The kernel's complaint, which proves that the call got through; raises OSError for a refusal."""
    try:
        system_call(name, arguments or CALLS[name][2])
    except OSError as error:
        if error.errno in REACHED:
            return errno.errorcode[error.errno or 0]
        raise
    return "0"
