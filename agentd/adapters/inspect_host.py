"""The host as far as it decides what systemd can enforce: versions, delegation, user namespaces, limits."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterable, Mapping

from agentd.adapters.inspect_cgroup import Cgroups, file_text
from agentd.adapters.inspect_process import parse_limits, parse_stat, parse_status, started_at
from agentd.evidence import HostEvidence
from agentd.types import Scope

_TRIAL = ("unshare", "--user", "--map-root-user", "--mount", "true")
"""Not only the namespace: the mounts of a sandbox want rights in it, which AppArmor may take away."""
_TRIAL_SECONDS = 5.0
_LINGER = "/var/lib/systemd/linger"
_SYSCTLS = (
    "user.max_user_namespaces",
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
    "fs.nr_open",
)


def read_host(scope: Scope, manager: Mapping[str, object], mountinfo: str = "") -> HostEvidence:
    """`manager`: the properties of the Manager interface."""
    mountinfo = mountinfo or file_text("/proc/self/mountinfo")
    cgroups = Cgroups(mountinfo)
    group = _text(manager, "ControlGroup").rstrip("/")
    own_group = f"{group}/init.scope"
    pid = _manager_pid(scope, cgroups.pids(own_group))
    stat = parse_stat(file_text(f"/proc/{pid}/stat"))
    score = file_text(f"/proc/{pid}/oom_score_adj")
    environment = _environment(pid, manager)
    memory = parse_status(file_text("/proc/meminfo"))
    uid = 0 if scope is Scope.SYSTEM else os.getuid()
    sysctls = _read_sysctls()
    allowed, reason = user_namespaces(uid, sysctls)
    root = cgroups.root()
    return HostEvidence(
        scope=scope,
        systemd=_version(_text(manager, "Version")),
        kernel=os.uname().release,
        uid=uid,
        home=environment.get("HOME", "") or _passwd_home(uid),
        runtime_dir="/run" if scope is Scope.SYSTEM else environment.get("XDG_RUNTIME_DIR", f"/run/user/{uid}"),
        unit_dirs=_texts(manager, "UnitPath"),
        manager_control_group=own_group,
        cgroup=cgroup_kind(root is not None, file_text("/proc/cgroups"), mountinfo),
        delegated=tuple(sorted(cgroups.words(group, "cgroup.subtree_control"))),
        available=tuple(sorted(cgroups.words("", "cgroup.controllers"))),
        userns_allowed=allowed,
        userns_reason=reason,
        linger=None if scope is Scope.SYSTEM else _lingers(uid),
        swap_total=_kibibytes(memory, "SwapTotal"),
        memory_total=_kibibytes(memory, "MemTotal"),
        hard_limits={name: hard for name, (_, hard) in parse_limits(file_text(f"/proc/{pid}/limits")).items()},
        manager_oom_score_adj=int(score) if score else None,
        manager_nice=stat.nice if stat else None,
        manager_pid=pid,
        cpus=os.cpu_count() or 1,
        features=_text(manager, "Features"),
        manager_started=started_at(stat) if stat else 0.0,
        ancestors=cgroups.levels(group),
        sysctls=sysctls,
    )


def cgroup_kind(unified: bool, cgroups: str, mountinfo: str) -> str:
    """`unified`: cgroup v2 is mounted; `cgroups`: /proc/cgroups.

    "hybrid" while v1 holds any controller, since v2 lacks it then, or while v1 is mounted without one (systemd's own).
    """
    if not unified:
        return "v1"
    rows = (line.split() for line in cgroups.splitlines() if not line.startswith("#"))
    taken = any(len(row) >= 2 and row[1] != "0" for row in rows)
    mounted = any(" - cgroup " in line for line in mountinfo.splitlines())
    return "hybrid" if taken or mounted else "v2"


def user_namespaces(uid: int, settings: Mapping[str, str]) -> tuple[bool | None, str]:
    """Whether a process of this user can make one, and what forbids it.

    Settings that forbid it for certain come first. Then it is tried, unless we ourselves live under a seccomp filter,
    whose refusal would tell nothing about other processes.
    """
    denied = denied_by(uid, settings)
    if denied:
        return False, denied
    if not os.path.exists("/proc/self/ns/user"):  # noqa: PTH110 - a magic link, not a path
        return False, "the kernel has no user namespaces"
    own = parse_status(file_text("/proc/self/status"))
    if own.get("Seccomp", "0") != "0" or uid != os.getuid():
        return True, ""
    return _try_it()


def denied_by(uid: int, settings: Mapping[str, str]) -> str:
    """The setting that forbids user namespaces to this user ("kernel.unprivileged_userns_clone=0"), or ""."""
    wrong = {"user.max_user_namespaces": "0"}
    if uid != 0:
        wrong |= {"kernel.unprivileged_userns_clone": "0", "kernel.apparmor_restrict_unprivileged_userns": "1"}
    found = (f"{name}={value}" for name, value in wrong.items() if settings.get(name, "").strip() == value)
    return next(found, "")


def _try_it() -> tuple[bool | None, str]:
    try:
        done = subprocess.run(
            _TRIAL, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"cannot be tried: {error}"
    if done.returncode == 0:
        return True, ""
    return False, (done.stderr.strip().splitlines() or [f"unshare ended with status {done.returncode}"])[-1]


def _read_sysctls() -> dict[str, str]:
    found = {name: file_text(f"/proc/sys/{name.replace('.', '/')}") for name in _SYSCTLS}
    return {name: value for name, value in found.items() if value}


def _manager_pid(scope: Scope, pids: Iterable[int]) -> int:
    """`pids`: of the manager's own cgroup, where its PAM helper lives as well. 0 when it cannot be told."""
    if scope is Scope.SYSTEM:
        return 1
    named = [pid for pid in sorted(pids) if file_text(f"/proc/{pid}/comm") == "systemd"]
    told = os.environ.get("MANAGERPID", "")
    return int(told) if told.isdigit() and int(told) in named else next(iter(named), 0)


def _environment(pid: int, manager: Mapping[str, object]) -> dict[str, str]:
    """The manager's: as it was started if we may read that, else what it hands to its services."""
    started = file_text(f"/proc/{pid}/environ").split("\0") if pid else []
    pairs = (text.partition("=") for text in (*_texts(manager, "Environment"), *started))
    return {name: value for name, equals, value in pairs if equals}


def _version(text: str) -> int:
    """ "252.39-1~deb12u2", "v257", "systemd 256~rc1" -> the first number."""
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0


def _lingers(uid: int) -> bool | None:
    try:
        name = pwd.getpwuid(uid).pw_name
        return name in os.listdir(_LINGER)  # noqa: PTH208 - names are all there is to it
    except FileNotFoundError:
        return False
    except (OSError, KeyError):
        return None


def _passwd_home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return ""


def _kibibytes(memory: Mapping[str, str], name: str) -> int:
    value = memory.get(name, "0").split()[0]
    return int(value) * 1024 if value.isdigit() else 0


def _text(manager: Mapping[str, object], name: str) -> str:
    return str(manager.get(name) or "")


def _texts(manager: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = manager.get(name)
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
