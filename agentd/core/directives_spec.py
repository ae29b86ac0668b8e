"""What is known of one directive: how its text compares to systemd's property, which evidence shows it. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto


class Kind(StrEnum):
    """How the declared text compares to the loaded value."""

    BOOL = auto()
    CHOICE = auto()
    """A word, or a boolean; 257 gives its word in another property (`Spec.words_in`)."""
    SIZE = auto()
    TASKS = auto()
    QUOTA = auto()
    WEIGHT = auto()
    NUMBER = auto()
    OCTAL = auto()
    SPAN = auto()
    LIMIT = auto()
    WORDS = auto()
    PATHS = auto()
    CAPABILITIES = auto()
    FAMILIES = auto()
    SYSCALLS = auto()
    NAMESPACES = auto()
    NETWORKS = auto()
    BITMAP = auto()
    BINDS = auto()
    FIRST = auto()
    """A list of structures whose first word is declared first, up to ":" (or a space)."""
    NONEMPTY = auto()
    """A list that is only compared as to whether there is anything in it."""
    SCHEDULER = auto()
    ERRNO = auto()
    DELEGATE = auto()
    ANY = auto()
    """Not compared."""


class Check(StrEnum):
    """Which evidence is looked at. Names of `judge_*` functions are keyed by it."""

    NO_NEW_PRIVILEGES = auto()
    PRIVATE_USERS = auto()
    PROTECT_SYSTEM = auto()
    PROTECT_HOME = auto()
    READ_WRITE = auto()
    READ_ONLY = auto()
    INACCESSIBLE = auto()
    NO_EXEC = auto()
    BIND = auto()
    TMPFS = auto()
    PRIVATE_TMP = auto()
    PRIVATE_DEVICES = auto()
    NAMESPACE = auto()
    """`Spec.arg`: its name below /proc/PID/ns."""
    KERNEL_TUNABLES = auto()
    KERNEL_MODULES = auto()
    KERNEL_LOGS = auto()
    CLOCK = auto()
    CONTROL_GROUPS = auto()
    PROC_OPTION = auto()
    """`Spec.arg`: the mount option of /proc."""
    ROOT = auto()
    SECCOMP = auto()
    WRITE_EXECUTE = auto()
    BOUNDING_SET = auto()
    AMBIENT_SET = auto()
    UMASK = auto()
    RLIMIT = auto()
    """`Spec.arg`: its line in /proc/PID/limits."""
    OOM_SCORE = auto()
    NICE = auto()
    SCHEDULER = auto()
    AFFINITY = auto()
    DYNAMIC_USER = auto()
    CREDENTIAL = auto()
    CGROUP_LIMIT = auto()
    """`Spec.arg`: the cgroup file; the smallest on the way up counts."""
    CGROUP_PROTECTION = auto()
    CGROUP_QUOTA = auto()
    CGROUP_WEIGHT = auto()
    CGROUP_CPUS = auto()
    CGROUP_FLAG = auto()
    CGROUP_DEVICE = auto()
    """`Spec.arg`: the cgroup file and the key in it: "io.max rbps"."""
    CGROUP_PRESENT = auto()
    OOM_POLICY = auto()
    DELEGATE = auto()
    OOMD_PREFERENCE = auto()
    BPF = auto()
    """`Spec.arg`: "framework" where the manager must be built with BPF_FRAMEWORK."""
    UNSEEN = auto()
    """Nothing that can be read from outside shows it. `Spec.arg` says what it is."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One directive. `properties`: of the Service interface; the key itself when empty."""

    key: str
    kind: Kind
    check: Check
    arg: str = ""
    properties: tuple[str, ...] = ()
    words_in: str = ""
    """The property that holds the exact word on newer versions: PrivateTmpEx."""
    since: int = 0
    """Version that brought the key; 0: older than all that matter (252)."""
    words_since: Mapping[str, int] = field(default_factory=dict)
    """The same for values: {"disconnected": 257}."""
    words: tuple[str, ...] = ()
    """The words that systemd knows, besides booleans where the kind is CHOICE."""
    off: tuple[str, ...] = ()
    """Values that ask for nothing, besides "" and a false boolean."""
    exits: tuple[int, ...] = ()
    """Exit statuses with which a start fails because of it."""
    mounts: bool = False
    """It is done by mounts, which in a user manager need a user namespace."""

    @property
    def property(self) -> str:
        return self.properties[0] if self.properties else self.key
