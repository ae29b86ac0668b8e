"""Where a restore puts a backup: one RDB, as the snapshot and as the base of an append-only file. Pure.

Whatever the server's file says of `appendonly`, its next start then finds the same moment. All parts are new names, and
the manifest is the one thing that is replaced: a crash leaves it naming only old files or only new ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agentd.core.redis_layout import Layout

STAGED = ".agentd-restore.partial"
"""Ends every name that lies beside its place."""
KEPT = "before-restore-"
"""Begins the name of the directory with the old files; with the time behind it."""


@dataclass(frozen=True, slots=True)
class Placement:
    layout: Layout
    rdb: str
    """Full path of the backup's RDB."""
    size: int
    sha256: str
    stamp: str
    """Of this restore; in the name of the directory with the old files."""

    @property
    def kept(self) -> str:
        return f"{self.layout.directory}/{KEPT}{self.stamp}"

    @property
    def staged_rdb(self) -> str:
        return self.layout.rdb + STAGED

    @property
    def staged_base(self) -> str:
        return f"{self.layout.aof}/{self.layout.appendfilename}.base{STAGED}"

    @property
    def staged_manifest(self) -> str:
        return self.layout.manifest + STAGED


def part_names(appendfilename: str, existing: Iterable[str]) -> tuple[str, str]:
    """(base, increment) with numbers that no file has. An old increment under the name of a new one would be appended
    to, and its old commands replayed."""
    pattern = re.compile(re.escape(appendfilename) + r"\.([0-9]{1,18})\.(?:base|incr)\.(?:rdb|aof)")
    numbers = [int(found[1]) for found in map(pattern.fullmatch, existing) if found]
    number = max(numbers, default=0) + 1
    return f"{appendfilename}.{number}.base.rdb", f"{appendfilename}.{number}.incr.aof"
