"""What a store's manager works with: one server, its policy, and the ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentd.core.schema_redis import RedisPolicy
from agentd.ports import Clock, Files, Kernel
from agentd.ports_backup import BackupFiles
from agentd.ports_redis import RedisAdmin, ScratchServers, Target


@dataclass(frozen=True, slots=True)
class RedisPorts:
    files: BackupFiles
    scratch: ScratchServers
    connect: Callable[[Target], RedisAdmin]
    kernel: Kernel
    clock: Clock
    state_files: Files
    """Allows `state_dir`, which is ours alone."""
    state_dir: str
    """For records, safety copies, evidence and backups."""


@dataclass(frozen=True, slots=True)
class Store:
    """One server; replaced as a whole when the configuration changes what is in it."""

    name: str
    unit: str
    """"" for one that is no service of ours."""
    target: Target
    admin: RedisAdmin
    policy: RedisPolicy
    config_file: str = ""
