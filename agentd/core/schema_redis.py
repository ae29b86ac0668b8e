"""The shape of the configuration, continued: how a store keeps its data, and how to reach it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agentd.core.schema_types import Bytes, Count, Delay, FilePath, Positive, Seconds, SecretFile, Size, Url

SavePoints = Annotated[str, Meta(extra={"form": "save-points"})]
"""Pairs of seconds and changes, as redis.conf has them: "3600 1 300 100"; "" for no snapshots."""
CredentialName = Annotated[str, Meta(extra={"form": "credential"})]
"""A systemd credential of agentd's own unit (LoadCredential=); "" for none."""
Percentage = Annotated[int, Meta(ge=0, le=1_000_000)]


class RedisPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """Dual persistence of every service with role "store"; with `url`, of one more that is no service of ours."""

    mode: Literal["enforce", "report"] = "enforce"
    """"report" only looks; `agentctl redis enforce` still acts."""
    url: Url = ""
    """A Redis beside those of the services, for example the system's; called "redis" in commands."""
    user: str = ""
    password_file: SecretFile = ""
    """A file with the password alone."""
    password_credential: CredentialName = ""
    appendonly: bool = True
    appendfsync: Literal["everysec", "always", "no"] = "everysec"
    save: SavePoints = "3600 1 300 100 60 10000"
    aof_use_rdb_preamble: bool = True
    aof_load_truncated: bool = True
    no_appendfsync_on_rewrite: bool = False
    stop_writes_on_bgsave_error: bool = True
    auto_aof_rewrite_percentage: Percentage = 100
    auto_aof_rewrite_min_size: Size = Bytes(64 * 1024**2)
    persist: Literal["auto", "rewrite", "edit", "never"] = "auto"
    """How the file is brought to the policy: edit it where we may, else let Redis write it (CONFIG REWRITE)."""
    check_every: Annotated[Seconds, Meta(ge=30)] = Seconds(30.0)
    timeout: Positive = Seconds(1800.0)
    """Longest wait for a save or a rewrite; a big data set on a slow disk takes its time."""
    disk_margin: Size = Bytes(64 * 1024**2)
    """Free space wanted beyond twice the data set."""
    backup_dir: FilePath = ""
    """"" for backups/ below agentd's state directory."""
    backup_every: Delay = Seconds(0.0)
    """0: only when asked."""
    backup_keep: Count = 7
    drill_every: Delay = Seconds(0.0)
