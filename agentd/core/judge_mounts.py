"""Verdicts from what a process sees of the file systems: ProtectSystem=, PrivateTmp=, InaccessiblePaths= and the like.

A check gets a process and says what its evidence shows. One of the path lists gets one entry of the list at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentd.core.directives_spec import Check
from agentd.core.judge_context import Context, Look, Outcome, same_namespace, unreadable
from agentd.core.judge_paths import (
    HOME_PATHS,
    SYSTEM_PATHS,
    hidden,
    mount_at,
    read_only,
    void,
)
from agentd.evidence import ProcessEvidence
from agentd.findings import Verdict

_MKNOD, _SYS_MODULE, _SYS_TIME, _SYSLOG, _WAKE_ALARM = 27, 16, 25, 34, 35


def protect_system(look: Look) -> Outcome:
    paths = SYSTEM_PATHS.get(str(look.item.loaded.value), SYSTEM_PATHS["yes"])
    return read_only(look.context, look.process, paths)


def protect_home(look: Look) -> Outcome:
    mode = look.item.loaded.value
    if mode == "read-only":
        return read_only(look.context, look.process, HOME_PATHS)
    nothing = void(look.context, look.process)
    if nothing is not None:
        return nothing
    there = [path for path in HOME_PATHS if (own := look.context.own(path)) is not None and own.exists]
    if mode == "tmpfs":
        return _tmpfs(look.process, there)
    states = {path: hidden(look.context, look.process, path) for path in there}
    open_paths = [path for path, state in states.items() if state is False]
    if open_paths:
        return Outcome(False, f"{' '.join(open_paths)} can be entered")
    if not states or None in states.values():
        return unreadable(look.process, "/home")
    return Outcome(True, f"{' '.join(there)} hidden")


def _tmpfs(process: ProcessEvidence, paths: list[str]) -> Outcome:
    if not process.mounts or not paths:
        return unreadable(process, "its mounts")
    real = [path for path in paths if (mount := mount_at(process, path)) is None or mount.fstype != "tmpfs"]
    if real:
        return Outcome(False, f"{' '.join(real)} not covered by a tmpfs")
    return Outcome(True, f"an empty tmpfs over {' '.join(paths)}")


def private_tmp(look: Look) -> Outcome:
    nothing = void(look.context, look.process)
    if nothing is not None:
        return nothing
    for path in ("/tmp", "/var/tmp"):
        seen, own = look.process.paths.get(path), look.context.own(path)
        if seen is None or own is None or seen.problem or own.problem or not seen.exists:
            return unreadable(look.process, path)
        mount = mount_at(look.process, path)
        if (seen.device, seen.inode) == (own.device, own.inode):
            return Outcome(False, f"{path} is the host's")
        if not look.process.mounts:
            return unreadable(look.process, "its mounts")
        if mount is None or not ("systemd-private" in mount.root or seen.device != own.device):
            # It may be us who have a private folder, on the file system of the host's.
            known = mount is None or mount.root
            return Outcome(False if known else None, f"{path} differs from ours, but need not be its own")
    return Outcome(True, "/tmp and /var/tmp are its own")


def private_devices(look: Look) -> Outcome:
    nothing = void(look.context, look.process)
    if nothing is not None:
        return nothing
    seen, own = look.process.paths.get("/dev"), look.context.own("/dev")
    if seen is None or own is None or not seen.exists or not own.exists:
        return unreadable(look.process, "/dev")
    if seen.device == own.device:
        return Outcome(False, "/dev is the host's")
    return _dropped(look.process, (_MKNOD,), "/dev is its own", "CAP_MKNOD")


def _dropped(process: ProcessEvidence, bits: tuple[int, ...], good: str, names: str) -> Outcome:
    text = process.status.get("CapBnd")
    if text is None:
        return unreadable(process, "its capabilities")
    mask = int(text, 16)
    if any(mask >> bit & 1 for bit in bits):
        return Outcome(False, f"{names} in CapBnd {text}")
    return Outcome(True, good)


def kernel_tunables(look: Look) -> Outcome:
    return read_only(look.context, look.process, ("/proc/sys",))


def kernel_modules(look: Look) -> Outcome:
    return _hidden_and_dropped(look.context, look.process, "/usr/lib/modules", _SYS_MODULE, "CAP_SYS_MODULE")


def kernel_logs(look: Look) -> Outcome:
    return _hidden_and_dropped(look.context, look.process, "/proc/kmsg", _SYSLOG, "CAP_SYSLOG")


def _hidden_and_dropped(context: Context, process: ProcessEvidence, path: str, bit: int, name: str) -> Outcome:
    nothing = void(context, process)
    if nothing is not None:
        return nothing
    seen, own = process.paths.get(path), context.own(path)
    if seen is None or (state := hidden(context, process, path)) is None:
        if seen is None or seen.problem or own is None or own.problem:
            return unreadable(process, path)
        return _dropped(process, (bit,), f"no {name}, and there is no {path}", name)
    if not state:
        return Outcome(False, f"{path} can be opened")
    return _dropped(process, (bit,), f"{path} hidden, no {name}", name)


def clock(look: Look) -> Outcome:
    return _dropped(look.process, (_SYS_TIME, _WAKE_ALARM), "no CAP_SYS_TIME, no CAP_WAKE_ALARM", "CAP_SYS_TIME")


def control_groups(look: Look) -> Outcome:
    mode = look.item.loaded.value
    if mode in ("private", "strict"):
        same = same_namespace(look.context, look.process, "cgroup")
        if same is None:
            return unreadable(look.process, "its cgroup namespace")
        if same:
            return Outcome(False, "it has no cgroup namespace of its own")
        if mode == "private":
            return Outcome(True, "a cgroup namespace of its own")
    return read_only(look.context, look.process, ("/sys/fs/cgroup",))


def namespace(look: Look) -> Outcome:
    name = look.item.spec.arg
    same = same_namespace(look.context, look.process, name)
    if same is None:
        return unreadable(look.process, f"its {name} namespace")
    return Outcome(not same, f"{'no' if same else 'a'} {name} namespace of its own")


def proc_option(look: Look) -> Outcome:
    mount = mount_at(look.process, "/proc")
    if mount is None:
        return unreadable(look.process, "its mounts")
    wanted = f"{look.item.spec.arg}={look.item.loaded.value}"
    old = {"hidepid=invisible": "hidepid=2", "hidepid=noaccess": "hidepid=1", "hidepid=ptraceable": "hidepid=4"}
    if wanted in mount.super_options or old.get(wanted) in mount.super_options:
        return Outcome(True, f"/proc mounted with {wanted}")
    text = f"/proc mounted without {wanted}"
    if not look.context.user:
        return Outcome(False, text)
    other = " (since systemd 257 PrivatePIDs=yes hides other processes)" if look.item.spec.arg == "hidepid" else ""
    return Outcome(
        False, text, "a user manager cannot mount /proc with options of its own, and says nothing",
        f"leave it out, or run the unit in the system manager{other}", Verdict.NOT_ENFORCEABLE,
    )  # fmt: skip


def root(look: Look) -> Outcome:
    seen, own = look.process.paths.get("/"), look.context.own("/")
    if seen is None or own is None or seen.problem:
        return unreadable(look.process, "its root directory")
    same = (seen.device, seen.inode) == (own.device, own.inode)
    return Outcome(not same, f"its root directory is {'the host' if same else 'not the host'}'s")


MOUNTS: Mapping[Check, Callable[[Look], Outcome]] = {
    Check.PROTECT_SYSTEM: protect_system,
    Check.PROTECT_HOME: protect_home,
    Check.PRIVATE_TMP: private_tmp,
    Check.PRIVATE_DEVICES: private_devices,
    Check.KERNEL_TUNABLES: kernel_tunables,
    Check.KERNEL_MODULES: kernel_modules,
    Check.KERNEL_LOGS: kernel_logs,
    Check.CLOCK: clock,
    Check.CONTROL_GROUPS: control_groups,
    Check.NAMESPACE: namespace,
    Check.PROC_OPTION: proc_option,
    Check.ROOT: root,
}
