"""Records about a store (Redis or Valkey): what it says of itself, what lies on the disk, and what agentd made of it.

Sizes are bytes, durations seconds, times wall-clock seconds since the epoch; -1 where the server says "never".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agentd.findings import Finding


@dataclass(frozen=True, slots=True)
class RedisState:
    """INFO of one moment: sections server, clients, memory, persistence, stats, replication and keyspace."""

    product: str = "redis"
    """"redis" or "valkey"."""
    version: str = ""
    """Its own version: of Valkey the one of Valkey, not that of the Redis that it claims to be."""
    run_id: str = ""
    """Random, new at every start."""
    pid: int = 0
    uptime: int = 0
    executable: str = ""
    config_file: str = ""
    """"" when it was started without one."""
    role: str = "master"
    """"master" or "slave"."""
    loading: bool = False
    """Reading its data set, at a start or as a replica."""
    keys: int = 0
    """Of all databases together."""
    expires: int = 0
    """Keys with a time to live, of all databases together."""
    used_memory: int = 0
    used_memory_rss: int = 0
    maxmemory: int = 0
    total_system_memory: int = 0
    aof_enabled: bool = False
    aof_rewrite_in_progress: bool = False
    aof_rewrite_scheduled: bool = False
    aof_last_bgrewrite_ok: bool = True
    aof_last_write_ok: bool = True
    aof_rewrites: int = 0
    """Started since the server was; a rewrite that failed counts."""
    aof_rewrite_failures: int = 0
    """In a row (aof_rewrites_consecutive_failures)."""
    aof_last_rewrite_seconds: int = -1
    aof_current_size: int = 0
    aof_base_size: int = 0
    aof_pending_fsync: int = 0
    aof_delayed_fsync: int = 0
    """Since the server's start; grows while the disk cannot keep up."""
    aof_last_cow_size: int = 0
    rdb_bgsave_in_progress: bool = False
    rdb_last_bgsave_ok: bool = True
    rdb_last_save: float = 0.0
    """The server's start when it has not saved since."""
    rdb_changes: int = 0
    """Writes since the last save (rdb_changes_since_last_save)."""
    rdb_saves: int = 0
    rdb_last_bgsave_seconds: int = -1
    rdb_last_cow_size: int = 0
    rdb_last_load_keys: int = 0
    """Keys loaded from an RDB (or the base of an AOF) at the start."""
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Every field as the server wrote it."""

    @property
    def saving(self) -> bool:
        """A child saves or rewrites, or is about to."""
        return self.rdb_bgsave_in_progress or self.aof_rewrite_in_progress or self.aof_rewrite_scheduled


@dataclass(frozen=True, slots=True)
class ConfFile:
    """One file of the configuration, as it lies on the disk now."""

    path: str
    text: str | None
    """None when it cannot be read; `problem` says why."""
    problem: str = ""
    """"permission denied", "no such file or directory"."""
    mtime: float = 0.0
    mode: int = 0
    uid: int = -1
    link: str = ""
    """Where it really is, when `path` is a symbolic link."""
    mounted: bool = False
    """A mount point of its own: it can be written, not replaced."""
    writable: bool = False
    """We may replace it: its directory (that of the link's target) can be written and it is no mount point."""
    included_by: str = ""
    """The file whose `include` named it; "" for the main file."""


@dataclass(frozen=True, slots=True)
class ConfTree:
    """The main file first, then every included file, each once, in the order in which they were met."""

    files: tuple[ConfFile, ...] = ()
    included: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """An `include`'s argument as written -> the paths that it named, in Redis's order; () for none."""

    @property
    def main(self) -> ConfFile | None:
        return self.files[0] if self.files else None


@dataclass(frozen=True, slots=True)
class Launch:
    """How the server's process was started, as far as systemd knows."""

    unit: str = ""
    scope: str = ""
    """"user" or "system": which manager has the unit."""
    argv: tuple[str, ...] = ()
    """Of the unit's ExecStart=; () when it is not known."""
    started: float = 0.0
    """When the process was started; 0 when not known."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AofFiles:
    """The append-only directory as it lies on the disk."""

    manifest: str | None = None
    """The manifest's text; None when there is none or it cannot be read."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Name -> bytes of every file in the directory."""
    newest: float = 0.0
    """Latest mtime of a file in it; 0 when there is none."""
    problem: str = ""
    """Why it could not be looked at ("permission denied"); "" also when the directory simply does not exist."""


@dataclass(frozen=True, slots=True)
class Space:
    """The file system below a directory, for an ordinary user."""

    free: int
    total: int


class Durability(StrEnum):
    """The one word for a store."""

    DURABLE = "durable"
    """Dual persistence at run time and after the next restart, proven."""
    RUNTIME_ONLY = "runtime-only"
    """As wanted now, but not (or not verifiably) after the next restart."""
    AT_RISK = "at-risk"
    """Something is not as the policy says, or fails."""
    DATA_LOSS = "data-loss"
    """It came back empty where there was data; everything is held still."""
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """What is remembered of a store on the disk, to compare with after its next start."""

    name: str
    run_id: str = ""
    keys: int = 0
    expires: int = 0
    """Of the keys, those with a time to live: they may go by themselves."""
    at: float = 0.0
    """When the keys were counted."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Where the data was: "dir", "dbfilename", "appenddirname", "appendfilename"."""
    proven: bool = False
    """The append-only file was proven usable in this run."""
    persisted: bool = False
    """... and the configuration file was seen to keep it, or Redis wrote it."""
    file_written: float = 0.0
    """mtime of the configuration file after CONFIG REWRITE by us."""
    loss: str = ""
    """What happened, when the data set was found empty and nobody has decided yet."""
    evidence: str = ""
    """The directory with the copies that were made then."""
    backup_at: float = 0.0
    backup_bytes: int = 0
    """Size of the last backup."""
    drill_at: float = 0.0
    drill_ok: bool | None = None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The last look at one store."""

    name: str
    unit: str = ""
    url: str = ""
    """Never with a password."""
    durability: Durability = Durability.UNKNOWN
    summary: str = ""
    """One sentence: why the word above."""
    problem: str = ""
    """Why it could not be asked."""
    at: float = 0.0
    """When it was last asked with success; 0: never."""
    state: RedisState | None = None
    runtime: bool | None = None
    """CONFIG GET is what the policy wants; None: not known."""
    file: bool | None = None
    """What the next start would read is what the policy wants; None: not verifiable."""
    proven: bool | None = None
    """The append-only file is usable now."""
    space: Space | None = None
    findings: tuple[Finding, ...] = ()
    enforcing: str = ""
    """Id of the change that runs on it; "" when none does."""
    record: StoreRecord | None = None
    backup_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FileDigest:
    path: str
    """Relative to the copy's directory."""
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ScratchResult:
    """A server that was started on a copy of the files and asked what it has."""

    keys: Mapping[int, int]
    """Database -> keys."""
    expires: Mapping[int, int]
    digest: str = ""
    """DEBUG DIGEST of the whole data set where it was asked for; "" otherwise."""
    seconds: float = 0.0
    """From the start to the end of loading."""
    log: tuple[str, ...] = ()
    """Its last lines."""

    @property
    def total(self) -> int:
        return sum(self.keys.values())
