"""Acts that show system call filters at work: what they refuse, nothing outside can read. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from agentd.core.acts_types import FAMILIES, Act, Expect

CALLS = (
    *("add_key", "adjtimex", "bpf", "capset", "chroot", "clock_adjtime", "clock_settime", "fanotify_init", "fchown"),
    *("init_module", "io_uring_setup", "ioperm", "kcmp", "keyctl", "memfd_create", "mount", "name_to_handle_at"),
    *("open_tree", "perf_event_open", "pidfd_open", "process_vm_readv", "process_vm_writev", "ptrace", "request_key"),
    *("sched_setattr", "setns", "setpriority", "settimeofday", "setuid", "swapon", "umount2", "userfaultfd"),
)
"""System calls that the program can try without harm."""
NAMESPACES: Mapping[str, int] = {
    "mnt": 0x20000,
    "cgroup": 0x2000000,
    "uts": 0x4000000,
    "ipc": 0x8000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
_LOOKS_LIKE_THE_KERNEL = {
    "ESRCH": 3,
    "E2BIG": 7,
    "ENOEXEC": 8,
    "EBADF": 9,
    "EFAULT": 14,
    "EINVAL": 22,
    "EOPNOTSUPP": 95,
    "ENOTSUP": 95,
}
"""A filter that refuses with one of these cannot be told from a call that got through with wrong arguments."""

_ONE_EACH: Mapping[str, tuple[str, ...]] = {
    "LockPersonality": ("personality",),
    "MemoryDenyWriteExecute": ("mmap-wx", "mprotect-x"),
    "ProtectClock": ("call:adjtimex", "call:clock_settime", "call:settimeofday"),
    "ProtectKernelLogs": ("kernel-log",),
    "ProtectKernelModules": ("call:init_module",),
    "RestrictRealtime": ("realtime",),
    "RestrictSUIDSGID": ("set-id",),
}


def filters(properties: Mapping[str, object]) -> Iterator[Act]:
    for key, names in _ONE_EACH.items():
        if properties.get(key) is True:
            yield from (Act(name, (key,)) for name in names)
    yield from _namespaces(properties.get("RestrictNamespaces"))
    yield from _families(properties.get("RestrictAddressFamilies"))
    yield from _architectures(properties.get("SystemCallArchitectures"))
    yield from _calls(properties)


def filter_list(value: object) -> tuple[bool, frozenset[str]] | None:
    """systemd's (allow list?, names); None when nothing is filtered."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    allow, names = value
    if not isinstance(names, list | tuple) or not (allow or names):
        return None
    return bool(allow), frozenset(str(name) for name in names)


def _namespaces(flags: object) -> Iterator[Act]:
    if not isinstance(flags, int):
        return
    for kind, flag in NAMESPACES.items():
        if not flags & flag:
            yield Act(f"unshare:{kind}", ("RestrictNamespaces",), errno="EPERM")
            yield Act(f"enter:{kind}", ("RestrictNamespaces",), errno="EPERM")


def _families(value: object) -> Iterator[Act]:
    found = filter_list(value)
    if found is None:
        return
    allow, names = found
    for name, number in FAMILIES.items():
        if (name in names) != allow:
            yield Act(f"family:{number}", ("RestrictAddressFamilies",), errno="EAFNOSUPPORT")
        elif allow:
            yield Act(f"family:{number}", ("RestrictAddressFamilies",), Expect.ALLOWED)


def _architectures(value: object) -> Iterator[Act]:
    if isinstance(value, list | tuple) and value and "x32" not in value:
        yield Act("foreign-abi", ("SystemCallArchitectures",))


def _calls(properties: Mapping[str, object]) -> Iterator[Act]:
    found = filter_list(properties.get("SystemCallFilter"))
    number = properties.get("SystemCallErrorNumber")
    if found is None or number in _LOOKS_LIKE_THE_KERNEL.values():
        return
    answer = errno.errorcode.get(number, "") if isinstance(number, int) else ""
    allow, names = found
    special = dict(name.split(":", 1) for name in names if ":" in name)
    for call in CALLS:
        if special.get(call, "") in _LOOKS_LIKE_THE_KERNEL:
            continue
        if call in special or (call in names) != allow:
            yield Act(f"call:{call}", ("SystemCallFilter",))
            if answer and call not in special:
                yield Act(f"call:{call}", ("SystemCallErrorNumber",), errno=answer)
