"""What can be read of a running unit and of the host, as plain records. Sources: /proc, cgroupfs, systemd's D-Bus API.

Sizes are bytes. A text is exactly what the kernel wrote, without the newline. None means that there is no such file
or that it cannot be read; why is in the record's `problem`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentd.types import Scope, UnitState


@dataclass(frozen=True, slots=True)
class PathEvidence:
    """A path as a process sees it (or as we see it, in UnitEvidence.own_paths)."""

    exists: bool
    readonly: bool = False
    """ST_RDONLY of the mount."""
    mode: int = 0
    """Permission bits, S_IMODE."""
    device: int = 0
    inode: int = 0
    problem: str = ""
    """errno name ("EACCES") when it could not be looked at; `exists` is False then."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo; `options` are the mount's own, `super_options` the file system's."""

    point: str
    fstype: str
    options: tuple[str, ...]
    super_options: tuple[str, ...]
    root: str = ""
    """What of its file system is mounted there: "/", or a folder of it; "" when not known."""


@dataclass(frozen=True, slots=True)
class ProcessEvidence:
    """One process of the unit's cgroup, read by the same uid (or root)."""

    pid: int
    comm: str = ""
    started: float = 0.0
    """Wall-clock second of its start."""
    uid_map: str | None = None
    """Fields of the first line joined by one space: "0 0 4294967295" means no user namespace of its own."""
    status: Mapping[str, str] = field(default_factory=dict)
    """/proc/PID/status by key: NoNewPrivs, Seccomp, Seccomp_filters, CapBnd, CapEff, CapAmb, Cpus_allowed_list,
    Uid, Gid, Umask, ..."""
    limits: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """/proc/PID/limits: "Max open files" -> (soft, hard); "unlimited" as the kernel writes it."""
    oom_score_adj: int | None = None
    nice: int | None = None
    scheduler: int | None = None
    """SCHED_OTHER 0, SCHED_FIFO 1, SCHED_RR 2, SCHED_BATCH 3, SCHED_IDLE 5."""
    namespaces: Mapping[str, str] = field(default_factory=dict)
    """"net" -> "net:[4026531840]"; a namespace that cannot be read is left out."""
    mounts: tuple[Mount, ...] = ()
    paths: Mapping[str, PathEvidence] = field(default_factory=dict)
    """The paths that were asked for, through /proc/PID/root."""
    problem: str = ""
    """Why /proc/PID/root or a namespace could not be looked at."""


@dataclass(frozen=True, slots=True)
class CgroupLevel:
    """One cgroup on the way from the unit up to (without) the root of the hierarchy."""

    path: str
    """Below /sys/fs/cgroup, beginning with "/"."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Interface files that exist: "memory.max" -> "max", "cpu.stat" -> whole text, "cgroup.controllers" -> ..."""
    xattrs: Mapping[str, str] = field(default_factory=dict)
    """"user.delegate", "user.oomd_avoid", "user.oomd_omit" (also "trusted." where root reads it)."""


@dataclass(frozen=True, slots=True)
class UnitEvidence:
    control_group: str
    levels: tuple[CgroupLevel, ...] = ()
    """The unit's own cgroup first. Empty when the cgroup is gone."""
    processes: tuple[ProcessEvidence, ...] = ()
    own_namespaces: Mapping[str, str] = field(default_factory=dict)
    """The reader's own, to compare with."""
    own_paths: Mapping[str, PathEvidence] = field(default_factory=dict)
    read_at: float = 0.0
    cpu_seconds: float = 0.0
    """What the reading cost."""


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file that systemd says it read for a unit, as it lies on the disk now."""

    path: str
    text: str | None
    """None when it is gone or cannot be read."""
    link: str = ""
    """Target when it is a symbolic link ("/dev/null" masks)."""
    mtime: float = 0.0


@dataclass(frozen=True, slots=True)
class UnitView:
    """A unit as systemd has it, and its files as they are."""

    state: UnitState
    properties: Mapping[str, object] = field(default_factory=dict)
    """All D-Bus properties of the Unit and Service interfaces, undressed of variants."""
    files: tuple[UnitFile, ...] = ()
    """The unit file first, then the loaded drop-ins, in the order in which systemd applied them."""
    on_disk: tuple[UnitFile, ...] = ()
    """Every drop-in that systemd would read now, in its order; differs from `files` until a daemon-reload."""
    started: float = 0.0
    """Wall-clock second when the main process was started (ExecMainStartTimestamp); 0 when not running."""
    loaded_at: float = 0.0
    """Wall-clock second of the manager's last (re)load of unit files, 0 when unknown."""


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """The host as far as it decides what can be enforced."""

    scope: Scope = Scope.USER
    systemd: int = 0
    """Major version of the manager, 252."""
    kernel: str = ""
    uid: int = 0
    home: str = ""
    runtime_dir: str = ""
    """%t of the manager."""
    unit_dirs: tuple[str, ...] = ()
    """The manager's UnitPath, highest priority first."""
    manager_control_group: str = ""
    """Of the manager itself ("/user.slice/user-1000.slice/user@1000.service/init.scope" or "/init.scope")."""
    cgroup: str = "v2"
    """"v2", "hybrid" or "v1"."""
    delegated: tuple[str, ...] = ()
    """Controllers that the manager may hand down: cgroup.subtree_control above the units."""
    available: tuple[str, ...] = ()
    """Controllers that the root of the hierarchy has."""
    userns_allowed: bool | None = None
    """An unprivileged user namespace can be made (tried in a child)."""
    userns_reason: str = ""
    """Which setting denies it: "kernel.unprivileged_userns_clone=0"."""
    linger: bool | None = None
    swap_total: int = 0
    memory_total: int = 0
    hard_limits: Mapping[str, str] = field(default_factory=dict)
    """Of the manager's process, as in /proc/PID/limits: "Max open files" -> hard."""
    manager_oom_score_adj: int | None = None
    manager_nice: int | None = None
    manager_pid: int = 0
    cpus: int = 1
    features: str = ""
    """The manager's Features property: "+PAM ... -BPF_FRAMEWORK"."""
    manager_started: float = 0.0
    """Wall-clock second when the manager's process was started; 0 when unknown or not running."""
    ancestors: tuple[CgroupLevel, ...] = ()
    """The cgroup above all of the manager's units ("/user.slice/user-1000.slice/user@1000.service") and those above it,
    nearest first, without the root: what they limit is limited for every unit. Empty for the system manager."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """By name, those that exist of: kernel.unprivileged_userns_clone, user.max_user_namespaces,
    kernel.apparmor_restrict_unprivileged_userns, fs.nr_open."""


@dataclass(frozen=True, slots=True)
class ActResult:
    """One act that the canary tried inside the sandbox of a unit."""

    act: str
    """Its name in core/acts.py: "mmap-wx", "unshare-user", "write:/usr", "bus-escape", ..."""
    allowed: bool | None
    """None: could not be tried; `detail` says why."""
    errno: str = ""
    """"EPERM"; "" when allowed."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What the canary of one unit brought back. `failed` is set when it did not even start."""

    unit: str
    acts: tuple[ActResult, ...] = ()
    failed: str = ""
    """"218/CAPABILITIES: ..." in words; "" when it ran."""
    exit_status: int = 0
    journal: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Properties of the unit that the canary could not be given, and why it matters: "StateDirectory: ..."."""
    seconds: float = 0.0
    given: tuple[str, ...] = ()
    """Properties that the canary really had, read back from systemd."""
    baseline: tuple[ActResult, ...] = ()
    """The same acts in a unit of the same user without any of the directives: what is refused there proves nothing."""
    unfiltered: tuple[ActResult, ...] = ()
    """The same acts with every directive but SystemCallFilter, which may refuse what another directive is there for;
    empty where the unit has no filter."""
