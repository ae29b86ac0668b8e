"""The directives of systemd.exec: sandbox, capabilities, system calls, limits of the process. Pure data."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.directives_spec import Check, Kind, Spec


def _seccomp(key: str, kind: Kind = Kind.BOOL, *, exits: tuple[int, ...] = (228,)) -> Spec:
    return Spec(key, kind, Check.SECCOMP, exits=exits)


def _unseen(
    key: str,
    what: str,
    kind: Kind = Kind.ANY,
    *,
    words: tuple[str, ...] = (),
    exits: tuple[int, ...] = (),
    since: int = 0,
) -> Spec:
    return Spec(key, kind, Check.UNSEEN, what, words=words, exits=exits, since=since)


_LIMITS = {
    "CPU": "Max cpu time",
    "FSIZE": "Max file size",
    "DATA": "Max data size",
    "STACK": "Max stack size",
    "CORE": "Max core file size",
    "RSS": "Max resident set",
    "NPROC": "Max processes",
    "NOFILE": "Max open files",
    "MEMLOCK": "Max locked memory",
    "AS": "Max address space",
    "LOCKS": "Max file locks",
    "SIGPENDING": "Max pending signals",
    "MSGQUEUE": "Max msgqueue size",
    "NICE": "Max nice priority",
    "RTPRIO": "Max realtime priority",
    "RTTIME": "Max realtime timeout",
}
_PROC = ("noaccess", "invisible", "ptraceable", "default")

_BY_MOUNTS = (
    Spec("ProtectSystem", Kind.CHOICE, Check.PROTECT_SYSTEM, words=("full", "strict")),
    Spec("ProtectHome", Kind.CHOICE, Check.PROTECT_HOME, words=("read-only", "tmpfs")),
    Spec("ReadWritePaths", Kind.PATHS, Check.READ_WRITE),
    Spec("ReadOnlyPaths", Kind.PATHS, Check.READ_ONLY),
    Spec("InaccessiblePaths", Kind.PATHS, Check.INACCESSIBLE),
    Spec("NoExecPaths", Kind.PATHS, Check.NO_EXEC, "noexec"),
    Spec("ExecPaths", Kind.PATHS, Check.NO_EXEC, "exec"),
    Spec("BindReadOnlyPaths", Kind.BINDS, Check.BIND, "ro"),
    Spec("BindPaths", Kind.BINDS, Check.BIND, "rw"),
    Spec("TemporaryFileSystem", Kind.FIRST, Check.TMPFS),
    Spec(
        "PrivateTmp", Kind.CHOICE, Check.PRIVATE_TMP,
        words_in="PrivateTmpEx", words=("disconnected",), words_since={"disconnected": 257},
    ),
    Spec("PrivateDevices", Kind.BOOL, Check.PRIVATE_DEVICES, exits=(218, 226)),
    Spec("PrivateMounts", Kind.BOOL, Check.NAMESPACE, "mnt"),
    Spec("PrivateNetwork", Kind.BOOL, Check.NAMESPACE, "net", exits=(225, 226)),
    Spec("PrivateIPC", Kind.BOOL, Check.NAMESPACE, "ipc"),
    Spec("PrivatePIDs", Kind.CHOICE, Check.NAMESPACE, "pid", since=257),
    Spec(
        "ProtectHostname", Kind.CHOICE, Check.NAMESPACE, "uts",
        words_in="ProtectHostnameEx", words=("private",), words_since={"private": 258},
    ),
    Spec("ProtectKernelTunables", Kind.BOOL, Check.KERNEL_TUNABLES),
    Spec("ProtectKernelModules", Kind.BOOL, Check.KERNEL_MODULES, exits=(218, 226)),
    Spec("ProtectKernelLogs", Kind.BOOL, Check.KERNEL_LOGS, exits=(218, 226)),
    Spec("ProtectClock", Kind.BOOL, Check.CLOCK, exits=(218, 226)),
    Spec(
        "ProtectControlGroups", Kind.CHOICE, Check.CONTROL_GROUPS,
        words_in="ProtectControlGroupsEx", words=("private", "strict"), words_since={"private": 257, "strict": 257},
    ),
    Spec("ProtectProc", Kind.CHOICE, Check.PROC_OPTION, "hidepid", words=_PROC, off=("default",)),
    Spec("ProcSubset", Kind.CHOICE, Check.PROC_OPTION, "subset", words=("all", "pid"), off=("all",)),
    Spec("RootDirectory", Kind.ANY, Check.ROOT, exits=(210, 226)),
    Spec("RootImage", Kind.ANY, Check.ROOT, exits=(226,)),
)  # fmt: skip

MOUNTS = (
    *(replace(spec, mounts=True, exits=spec.exits or (226,)) for spec in _BY_MOUNTS),
    _unseen("MountAPIVFS", "whether the API file systems were mounted for it", Kind.BOOL),
    _unseen("MountFlags", "how mounts propagate"),
)

RIGHTS = (
    Spec("NoNewPrivileges", Kind.BOOL, Check.NO_NEW_PRIVILEGES, exits=(227,)),
    Spec(
        "PrivateUsers", Kind.CHOICE, Check.PRIVATE_USERS, exits=(217,),
        words_in="PrivateUsersEx", words=("self", "identity", "full", "managed"),
        words_since={"self": 257, "identity": 257, "full": 258, "managed": 258},
    ),
    Spec("DynamicUser", Kind.BOOL, Check.DYNAMIC_USER, exits=(217,)),
    Spec("CapabilityBoundingSet", Kind.CAPABILITIES, Check.BOUNDING_SET, exits=(218,)),
    Spec("AmbientCapabilities", Kind.CAPABILITIES, Check.AMBIENT_SET, exits=(218,)),
    _unseen("SecureBits", "the secure bits of the process", exits=(213,)),
    _seccomp("SystemCallFilter", Kind.SYSCALLS),
    _unseen("SystemCallLog", "which system calls are logged", Kind.SYSCALLS),
    _unseen("SystemCallErrorNumber", "what a forbidden system call answers", Kind.ERRNO),
    _seccomp("SystemCallArchitectures", Kind.WORDS),
    _seccomp("RestrictAddressFamilies", Kind.FAMILIES, exits=(228, 232)),
    _seccomp("RestrictNamespaces", Kind.NAMESPACES),
    _seccomp("RestrictSUIDSGID"),
    _seccomp("RestrictRealtime"),
    _seccomp("LockPersonality"),
    Spec("MemoryDenyWriteExecute", Kind.BOOL, Check.WRITE_EXECUTE, exits=(228,)),
    _unseen("Personality", "the personality of the process", exits=(230,)),
    _unseen("KeyringMode", "the kernel keyring of the process", Kind.CHOICE, words=("inherit", "private", "shared"),
            exits=(237,)),
    _unseen("RemoveIPC", "what is removed once the unit has stopped", Kind.BOOL),
    Spec("UMask", Kind.OCTAL, Check.UMASK),
    Spec("RestrictFileSystems", Kind.ANY, Check.BPF, "framework"),
    Spec("LoadCredential", Kind.FIRST, Check.CREDENTIAL, exits=(243,)),
    Spec("LoadCredentialEncrypted", Kind.FIRST, Check.CREDENTIAL, exits=(243,)),
    Spec("SetCredential", Kind.FIRST, Check.CREDENTIAL, exits=(243,)),
    Spec("SetCredentialEncrypted", Kind.FIRST, Check.CREDENTIAL, exits=(243,)),
    _unseen("ImportCredential", "which credentials were taken over", since=254),
    _unseen("AppArmorProfile", "the AppArmor profile", exits=(231,)),
    _unseen("SELinuxContext", "the SELinux context", exits=(229,)),
)  # fmt: skip

SCHEDULING = (
    Spec("OOMScoreAdjust", Kind.NUMBER, Check.OOM_SCORE, exits=(206,)),
    Spec("Nice", Kind.NUMBER, Check.NICE, exits=(201,)),
    Spec("CPUSchedulingPolicy", Kind.SCHEDULER, Check.SCHEDULER, exits=(214,)),
    _unseen("CPUSchedulingPriority", "the realtime priority", Kind.NUMBER, exits=(214,)),
    _unseen("CPUSchedulingResetOnFork", "what children inherit", Kind.BOOL, exits=(214,)),
    _unseen("IOSchedulingClass", "the I/O class", exits=(211,)),
    _unseen("IOSchedulingPriority", "the I/O priority", Kind.NUMBER, exits=(211,)),
    Spec("CPUAffinity", Kind.BITMAP, Check.AFFINITY, exits=(215,)),
    _unseen("NUMAPolicy", "the memory policy", exits=(242,)),
    _unseen("NUMAMask", "the memory policy", exits=(242,)),
    _unseen("TimerSlackNSec", "the timer slack", exits=(212,)),
    _unseen("CoredumpFilter", "which mappings a core dump holds"),
    *(
        Spec(f"Limit{name}", Kind.LIMIT, Check.RLIMIT, line, (f"Limit{name}", f"Limit{name}Soft"), exits=(205,))
        for name, line in _LIMITS.items()
    ),
)

EXEC = (*MOUNTS, *RIGHTS, *SCHEDULING)
