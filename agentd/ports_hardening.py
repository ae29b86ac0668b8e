"""The outside world of hardening as Protocols: systemd's full account of a unit, /proc and cgroups, watched files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from agentd.evidence import HostEvidence, UnitEvidence, UnitFile
from agentd.ports import Job
from agentd.types import Scope

TransientProperty = tuple[str, str, object]
"""(name, D-Bus signature, plain value): ("MemoryMax", "t", 83886080), ("ReadWritePaths", "as", ["-/srv"])."""


class UnitQuery(Protocol):
    """What systemd says beyond UnitState. Implemented by the same object as UnitControl."""

    async def properties(self, unit: str) -> Mapping[str, object]:
        """All properties of the Unit and Service interfaces as plain values (structures as lists or tuples)."""
        ...

    async def manager(self) -> Mapping[str, object]:
        """All properties of the Manager interface: Version, Features, UnitPath, ControlGroup, ..."""
        ...

    async def start_transient(self, unit: str, properties: Sequence[TransientProperty]) -> Job:
        """StartTransientUnit in mode "fail". ExecStart is given as ("ExecStart", "a(sasb)", [[path, argv, False]])."""
        ...


class UnitFiles(Protocol):
    """Unit files and drop-ins as they lie on the disk, links and all; read in a thread."""

    async def read_all(self, paths: Sequence[str]) -> tuple[UnitFile, ...]: ...

    async def dropins_of(self, unit: str, unit_dirs: Sequence[str]) -> tuple[UnitFile, ...]:
        """Every drop-in that systemd would read for the unit now, in the order in which it would apply them: by file
        name over all directories; for equal names the first directory (and the more specific *.d) wins. Also those of
        type ("service.d"), of name prefixes ("a-.service.d" for "a-b.service") and of templates ("a@.service.d")."""
        ...


class Inspector(Protocol):
    """procfs and cgroupfs, unprivileged; every call runs in a thread."""

    async def unit(self, control_group: str, paths: Sequence[str]) -> UnitEvidence:
        """Every process below the cgroup, and each of `paths` as each of them sees it."""
        ...

    async def host(self, scope: Scope, manager: Mapping[str, object]) -> HostEvidence: ...


class FileWatch(Protocol):
    """inotify on directories that may not exist yet."""

    def watch(self, directories: Sequence[str], callback: Callable[[str], None]) -> None:
        """`callback(path)` in the loop when a file in one of the directories (or in a *.d below it) was written,
        moved, removed or changed its mode. Replaces the earlier set."""
        ...

    def close(self) -> None: ...
