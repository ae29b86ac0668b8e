"""The outside world of a store as Protocols: the server itself, its files, and servers that run on copies of them.

Every method raises AgentdError, never a library's or the system's error, and has a deadline of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agentd.stores import AofFiles, ConfTree, FileDigest, Launch, RedisState, ScratchResult, Space


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is and as whom we come. The password is read anew for each connection and kept nowhere."""

    name: str
    url: str
    """redis://HOST:PORT or unix:///PATH."""
    user: str = ""
    """ACL user; "" for the default one."""
    password: Callable[[], str] | None = field(default=None, repr=False)
    """Raises AgentdError("redis-password") when its file cannot be read."""
    run_id: str = ""
    """Only this run of the server: one that was started anew gets no command, but "redis-restarted". "": any."""

    @property
    def local(self) -> bool:
        """On this machine, so that its paths and its pid may be ours, too."""
        return self.url.startswith(("unix:", "redis://127.", "redis://localhost", "redis://[::1]"))


class RedisAdmin(Protocol):
    """One server. Kinds of errors: "redis-unreachable" (refused, no socket, broken off), "redis-timeout" (it hangs),
    "redis-auth" (wrong or missing password), "redis-denied" (the ACL, or protected mode), "redis-unknown-command"
    (renamed or switched off), "redis-not-redis" (something else answers), "redis-loading", "redis-refused" (any other
    error answer; the message holds the server's own words, secrets taken out)."""

    async def state(self) -> RedisState:
        """INFO, one call. Works also while the server loads, and when it refuses writes."""
        ...

    async def config(self, names: Sequence[str]) -> Mapping[str, str]:
        """CONFIG GET of exactly these; what the server does not know is left out."""
        ...

    async def set_config(self, values: Mapping[str, str]) -> None:
        """One CONFIG SET: all of them or none."""
        ...

    async def rewrite_config(self) -> None: ...

    async def save(self) -> None:
        """BGSAVE; returns when it has begun. "redis-refused" when another child runs."""
        ...

    async def rewrite_aof(self) -> None:
        """BGREWRITEAOF; begun, or scheduled behind a running save."""
        ...

    async def close(self) -> None: ...


class DataFiles(Protocol):
    """The files of a server on this machine, as far as we may read them. Everything runs in threads."""

    async def space(self, directory: str) -> Space | None:
        """None when the directory cannot be reached."""
        ...

    async def configuration(self, path: str, cwd: str = "") -> ConfTree:
        """The file and all that it includes, globs too (relative ones against `cwd`). Never raises for a file that
        cannot be read: that is said in it."""
        ...

    async def aof(self, directory: str, name: str) -> AofFiles:
        """`directory`: full path of the append-only directory; `name`: appendfilename."""
        ...

    async def mtime(self, path: str) -> float | None:
        """None when it is not there, or cannot be reached."""
        ...

    async def size(self, path: str) -> int | None:
        """Bytes; None when it is not there, or cannot be reached."""
        ...

    async def patch(self, path: str, old: str, new: str) -> str:
        """Replace the file's text atomically: same owner, group and mode, through a symbolic link, and the old text
        kept beside it; returns the path of that backup. "file-changed" when the text no longer is `old`."""
        ...

    async def copy(self, sources: Mapping[str, str], target: str) -> tuple[FileDigest, ...]:
        """Copy each file (name relative to `target` -> full path) into the new directory `target`, 0700/0600, synced,
        all or nothing: it appears under its name only when it is whole. A source that grows meanwhile is copied as
        long as it was when its copying began. "file-missing", "file-denied", "disk-full", "file-write"."""
        ...

    async def digest(self, directory: str) -> tuple[FileDigest, ...]:
        """Of every file below the directory, sorted by path."""
        ...

    async def launch(self, pid: int) -> Launch:
        """Which unit the process belongs to and what its ExecStart= says; never raises."""
        ...


class ScratchServers(Protocol):
    """redis-server on a copy: a unix socket in a private directory, no TCP, nothing saved, gone when it returns."""

    async def load(
        self,
        directory: str,
        *,
        appendonly: bool,
        executable: str = "",
        config: Mapping[str, str] | None = None,
        digest: bool = False,
        timeout: float = 600.0,
    ) -> ScratchResult:
        """Start on the files in `directory` (which it may change: give it a copy), count, stop. "drill-failed" when it
        does not start, with its last words; "drill-timeout"; "drill-no-server" when there is no executable."""
        ...
