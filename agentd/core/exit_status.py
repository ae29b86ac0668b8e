"""What systemd's exit statuses 200 to 245 say, which directives can cause each, and which one did. Pure.

systemd exits with these between fork and exec, so they are never the program's own. The journal says more than the
status: the step that failed, often the path. Where several directives are possible, all of them are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentd.core.unitdiff import named_paths
from agentd.core.unitfile import Directive

SIGSYS = 31
_MOUNTS = (
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "TemporaryFileSystem"),
    *("BindPaths", "BindReadOnlyPaths", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectProc"),
    *("ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProcSubset"),
    *("ProtectHostname", "PrivateMounts", "PrivateIPC", "PrivatePIDs", "MountAPIVFS", "RootDirectory", "RootImage"),
)
_SECCOMP = (
    *("SystemCallFilter", "SystemCallArchitectures", "SystemCallLog", "RestrictNamespaces", "RestrictRealtime"),
    *("RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute", "ProtectKernelModules", "ProtectKernelLogs"),
    *("ProtectKernelTunables", "ProtectClock", "PrivateDevices", "ProtectHostname", "RestrictFileSystems"),
)
_HIDES = ("InaccessiblePaths", "NoExecPaths", "TemporaryFileSystem", "ProtectHome", "PrivateTmp", "RootDirectory")
_PRIVILEGED = (
    *("CapabilityBoundingSet", "AmbientCapabilities", "PrivateDevices", "ProtectKernelModules", "ProtectKernelLogs"),
    *("ProtectClock", "SecureBits"),
)


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """`name` as systemd prints it; `directives`: those that can cause it, the likeliest first."""

    name: str
    words: str
    directives: tuple[str, ...] = ()
    fix: str = ""


_USERNS = "in a user manager it needs PrivateUsers=yes beside it"
STATUS: Mapping[int, ExitStatus] = {
    200: ExitStatus("CHDIR", "cannot enter the working directory", ("WorkingDirectory", *_HIDES)),
    201: ExitStatus("NICE", "cannot set the nice value", ("Nice",)),
    202: ExitStatus("FDS", "cannot pass file descriptors on", ("OpenFile",)),
    203: ExitStatus("EXEC", "cannot execute the program", (*_HIDES, "SystemCallFilter", "ExecSearchPath")),
    204: ExitStatus("MEMORY", "memory ran out", ("MemoryMax", "LimitAS", "LimitDATA")),
    205: ExitStatus("LIMITS", "cannot set a resource limit", ("Limit",), "stay below the manager's hard limit"),
    206: ExitStatus("OOM_ADJUST", "cannot set the OOM score", ("OOMScoreAdjust",)),
    207: ExitStatus("SIGNAL_MASK", "cannot set the signal mask"),
    208: ExitStatus("STDIN", "cannot set up standard input", ("StandardInput", "TTYPath")),
    209: ExitStatus("STDOUT", "cannot set up standard output", ("StandardOutput",)),
    210: ExitStatus("CHROOT", "cannot change the root directory", ("RootDirectory", "RootImage")),
    211: ExitStatus("IOPRIO", "cannot set the I/O priority", ("IOSchedulingClass", "IOSchedulingPriority")),
    212: ExitStatus("TIMERSLACK", "cannot set the timer slack", ("TimerSlackNSec",)),
    213: ExitStatus("SECUREBITS", "cannot set the secure bits", ("SecureBits",)),
    214: ExitStatus("SETSCHEDULER", "cannot set the CPU scheduling", ("CPUSchedulingPolicy", "CPUSchedulingPriority")),
    215: ExitStatus("CPUAFFINITY", "cannot set the CPU affinity", ("CPUAffinity",)),
    216: ExitStatus("GROUP", "cannot change to the group", ("Group", "SupplementaryGroups", "DynamicUser")),
    217: ExitStatus("USER", "cannot change to the user, or make its user namespace",
                    ("PrivateUsers", "User", "DynamicUser"),
                    "user namespaces have to be allowed: sysctl kernel.unprivileged_userns_clone"),
    218: ExitStatus("CAPABILITIES", "cannot drop or raise capabilities", _PRIVILEGED, _USERNS),
    219: ExitStatus("CGROUP", "cannot set up the control group", ("Slice", "Delegate", "DelegateSubgroup")),
    220: ExitStatus("SETSID", "cannot make a session"),
    221: ExitStatus("CONFIRM", "was cancelled by the user"),
    222: ExitStatus("STDERR", "cannot set up standard error", ("StandardError",)),
    224: ExitStatus("PAM", "cannot set up a PAM session", ("PAMName",)),
    225: ExitStatus("NETWORK", "cannot set up the network namespace", ("PrivateNetwork", "NetworkNamespacePath")),
    226: ExitStatus("NAMESPACE", "cannot set up its mounts or namespaces", _MOUNTS,
                    'a path that may be missing is written with "-" before it'),
    227: ExitStatus("NO_NEW_PRIVILEGES", "cannot give up new privileges", ("NoNewPrivileges",)),
    228: ExitStatus("SECCOMP", "cannot install its system call filters", _SECCOMP),
    229: ExitStatus("SELINUX_CONTEXT", "cannot set the SELinux context", ("SELinuxContext",)),
    230: ExitStatus("PERSONALITY", "cannot set the execution domain", ("Personality", "LockPersonality")),
    231: ExitStatus("APPARMOR", "cannot change the AppArmor profile", ("AppArmorProfile",)),
    232: ExitStatus("ADDRESS_FAMILIES", "cannot restrict address families", ("RestrictAddressFamilies",)),
    233: ExitStatus("RUNTIME_DIRECTORY", "cannot set up the runtime directory", ("RuntimeDirectory",)),
    235: ExitStatus("CHOWN", "cannot change the owner of a socket"),
    236: ExitStatus("SMACK_PROCESS_LABEL", "cannot set the SMACK label", ("SmackProcessLabel",)),
    237: ExitStatus("KEYRING", "cannot set up the kernel keyring", ("KeyringMode",)),
    238: ExitStatus("STATE_DIRECTORY", "cannot set up the state directory", ("StateDirectory",)),
    239: ExitStatus("CACHE_DIRECTORY", "cannot set up the cache directory", ("CacheDirectory",)),
    240: ExitStatus("LOGS_DIRECTORY", "cannot set up the log directory", ("LogsDirectory",)),
    241: ExitStatus("CONFIGURATION_DIRECTORY", "cannot set up its directory in /etc", ("ConfigurationDirectory",)),
    242: ExitStatus("NUMA_POLICY", "cannot set up the NUMA policy", ("NUMAPolicy", "NUMAMask")),
    243: ExitStatus("CREDENTIALS", "cannot set up credentials",
                    ("LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted")),
    244: ExitStatus("BPF", "cannot set up BPF", ("RestrictFileSystems", "BPFProgram")),
    245: ExitStatus("KSM", "cannot set up kernel samepage merging", ("MemoryKSM",)),
}  # fmt: skip

_ENDED = re.compile(r"process exited, code=exited, status=(\d+)/")
_STEP = re.compile(r"Failed at step ([A-Z_]+) spawning ([^:]+)")
_MOUNT = re.compile(r"Failed to set up mount namespacing: (?:/run/systemd/(?:unit-root|mount-rootfs))?(/[^:]*):")
_LIMIT = re.compile(r"resource limit (?:RLIMIT_)?([A-Z]+)")
_PROGRAM = re.compile(r"Failed to (?:execute|locate executable) (?:command )?([^:]+):")
_NAMED = (
    (re.compile(r"Failed to set up user namespacing"), ("PrivateUsers",)),
    (re.compile(r"Failed to set up network namespacing"), ("PrivateNetwork", "NetworkNamespacePath")),
    (re.compile(r"Failed to apply address family restrictions"), ("RestrictAddressFamilies",)),
    (re.compile(r"Failed to restrict namespaces|namespace restrictions"), ("RestrictNamespaces",)),
)
_SAID = (
    (re.compile(r"read-only file system|EROFS", re.IGNORECASE),
     ("ProtectSystem", "ProtectHome", "ReadOnlyPaths", "ProtectKernelTunables", "ProtectControlGroups")),
    (re.compile(r"address family not supported", re.IGNORECASE), ("RestrictAddressFamilies",)),
    (re.compile(r"too many open files", re.IGNORECASE), ("LimitNOFILE",)),
    (re.compile(r"cannot allocate memory|out of memory|MemoryError", re.IGNORECASE),
     ("MemoryMax", "MemoryDenyWriteExecute", "LimitAS", "LimitMEMLOCK", "LimitDATA")),
    (re.compile(r"resource temporarily unavailable|can't start new thread", re.IGNORECASE),
     ("TasksMax", "LimitNPROC")),
    (re.compile(r"permission denied|EACCES", re.IGNORECASE),
     ("InaccessiblePaths", "ProtectHome", "NoExecPaths", "MemoryDenyWriteExecute", "ProtectProc")),
    (re.compile(r"operation not permitted|EPERM", re.IGNORECASE),
     ("SystemCallFilter", "CapabilityBoundingSet", "RestrictNamespaces", "RestrictRealtime", "NoNewPrivileges",
      "MemoryDenyWriteExecute", "PrivateUsers", "RestrictSUIDSGID")),
    (re.compile(r"no such (?:file or directory|device)", re.IGNORECASE),
     ("PrivateDevices", "InaccessiblePaths", "PrivateTmp", "TemporaryFileSystem", "ProtectHome")),
)  # fmt: skip
"""What programs print when a directive stands in their way."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a start failed. `status` is 0 when systemd itself did not refuse; `directives` are those of the drop-in that
    can be the cause, as they are written, and `line` the one of the journal that says most."""

    status: int = 0
    name: str = ""
    words: str = ""
    directives: tuple[Directive, ...] = ()
    line: str = ""
    fix: str = ""

    @property
    def exact(self) -> bool:
        return len({directive.key for directive in self.directives}) == 1

    def __str__(self) -> str:
        """ "226/NAMESPACE: cannot set up its mounts: ...; the cause is ReadWritePaths=/x (FILE:3)"."""
        text = f"{self.name}: {self.words}" if self.name else self.words
        if self.line:
            text = f"{text}: {self.line}" if text else self.line
        if not self.directives:
            return text
        named = ", ".join(f"{d.key}={d.value} ({d.place})" for d in self.directives)
        return f"{text}; {'the cause is' if self.exact else 'possible causes are'} {named}"


def diagnose(
    status: int, lines: Sequence[str], dropin: Iterable[Directive], *, signal: int = 0, result: str = ""
) -> Diagnosis:
    """`status` and `signal` of the last main process (0: none), `lines` of the journal, oldest first, `dropin`: what
    the suspected drop-ins say. A control process (ExecStartPre=) ends in the journal only, so that is read, too."""
    suspects = tuple(dropin)
    if status not in STATUS and not signal:
        told = [int(match[1]) for line in lines if (match := _ENDED.search(line))]
        status = next((number for number in reversed(told) if number in STATUS), status)
    if status in STATUS:
        return _of_systemd(status, lines, suspects)
    said = ""
    for keys, line in _of_program(lines, signal=signal, result=result):
        said = said or line
        if found := _pick(suspects, keys):
            return Diagnosis(directives=found, line=line or said)
    return Diagnosis(line=said)


def _of_systemd(status: int, lines: Sequence[str], suspects: Sequence[Directive]) -> Diagnosis:
    known = STATUS[status]
    step = next((line for line in reversed(lines) if (m := _STEP.search(line)) and m[1] == known.name), "")
    detail = next((line for line in reversed(lines) if "Failed to " in line and "Failed to start" not in line), "")
    found = _exactly(status, lines, suspects) or _pick(suspects, known.directives)
    line = _clean(detail or step)
    return Diagnosis(status, f"{status}/{known.name}", known.words, found, line, known.fix)


def _exactly(status: int, lines: Sequence[str], suspects: Sequence[Directive]) -> tuple[Directive, ...]:
    """By what the journal names: a path, a limit, a kind of namespace."""
    for line in reversed(lines):
        if match := _MOUNT.search(line):
            found = _with_path(suspects, match[1], _MOUNTS)
        elif status == 205 and (match := _LIMIT.search(line)):
            found = _pick(suspects, (f"Limit{match[1]}",))
        elif status == 203 and (match := _PROGRAM.search(line) or _STEP.search(line)):
            found = _hiding(suspects, match[match.re.groups])
        else:
            keys = next((keys for pattern, keys in _NAMED if pattern.search(line)), ())
            found = _pick(suspects, keys)
        if found:
            return found
    return ()


def _with_path(suspects: Sequence[Directive], path: str, keys: Sequence[str]) -> tuple[Directive, ...]:
    return tuple(d for d in suspects if d.key in keys and any(_is(p, path) for p in named_paths(d.value)))


def _is(written: str, path: str) -> bool:
    """A specifier at the beginning ("%h/models") stands for something that we do not know here."""
    return path.endswith(written[2:]) and written[2:] != "" if written.startswith("%") else written == path


def _hiding(suspects: Sequence[Directive], program: str) -> tuple[Directive, ...]:
    """Directives that take the program out of sight."""
    above = [program[:at] for at, char in enumerate(program) if char == "/" and at] + [program]
    found = [
        directive
        for directive in suspects
        if directive.key in ("InaccessiblePaths", "NoExecPaths", "TemporaryFileSystem")
        and any(_is(path, parent) for path in named_paths(directive.value) for parent in above)
    ]
    homes, temporary = ("/home/", "/root/", "/run/user/"), ("/tmp/", "/var/tmp/")
    found += [d for d in suspects if d.key == "ProtectHome" and program.startswith(homes)]
    found += [d for d in suspects if d.key == "PrivateTmp" and program.startswith(temporary)]
    return tuple(found)


def _of_program(lines: Sequence[str], *, signal: int, result: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(directives that can make a program end so, the line that says it), the likeliest first."""
    if signal == SIGSYS:
        yield ("SystemCallFilter", "SystemCallArchitectures", "RestrictNamespaces"), ""
    if result == "oom-kill":
        yield ("MemoryMax", "MemorySwapMax", "ManagedOOMMemoryPressure"), ""
    for line in reversed(lines):
        for pattern, keys in _SAID:
            if pattern.search(line):
                yield keys, _clean(line)
    if result in ("timeout", "watchdog"):
        yield ("InaccessiblePaths", "ProtectHome", "CPUQuota", "MemoryHigh"), ""


def _pick(suspects: Sequence[Directive], keys: Sequence[str]) -> tuple[Directive, ...]:
    """In the order of likelihood; what is switched off ("no", empty lists of paths) causes nothing."""
    off = ("no", "false", "0", "off", "default")
    picked = [(keys.index(k), d) for d in suspects for k in keys if d.key == k or (k == "Limit" and d.key[:5] == k)]
    return tuple(d for _, d in sorted(picked, key=lambda pair: pair[0]) if d.value.lower() not in off)


def _clean(line: str) -> str:
    """Without the unit's name, which systemd puts before, and the part of its path that only it sees."""
    line = re.sub(r"^[\w@:.\\-]+\.service: ", "", line)
    return re.sub(r"/run/systemd/(?:unit-root|mount-rootfs)(?=/)", "", line)
