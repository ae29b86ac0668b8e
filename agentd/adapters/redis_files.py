"""The DataFiles port: the files of a server on this machine."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from agentd.adapters import redis_conf_files, redis_conf_patch, redis_copies, redis_launch
from agentd.adapters.file_threads import FileThreads, Pulse
from agentd.adapters.redis_conf_files import reason
from agentd.stores import AofFiles, ConfTree, FileDigest, Launch, Space

COPY_PATIENCE = 120.0
"""Seconds without a step of a copy: a full disk queue can hold one fsync that long."""
_TRIES = 3
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


class LocalDataFiles:
    """Everything runs in threads of its own. Also raises AgentdError("file-stuck") when the kernel does not answer.

    Cancelling `patch` lets it end in the background; cancelling `copy` and `digest` ends them, and leaves nothing.
    """

    def __init__(self) -> None:
        self._threads = FileThreads()

    async def space(self, directory: str) -> Space | None:
        return await self._threads.run(f"look at {directory}", lambda: _space(directory))

    async def configuration(self, path: str, cwd: str = "") -> ConfTree:
        return await self._threads.run(f"read {path}", lambda: redis_conf_files.read_tree(path, cwd))

    async def aof(self, directory: str, name: str) -> AofFiles:
        return await self._threads.run(f"look at {directory}", lambda: _aof(directory, name))

    async def mtime(self, path: str) -> float | None:
        return await self._threads.run(f"look at {path}", lambda: _mtime(path))

    async def size(self, path: str) -> int | None:
        return await self._threads.run(f"look at {path}", lambda: _size(path))

    async def patch(self, path: str, old: str, new: str) -> str:
        # A patch waits itself for another process that is at the same directory.
        patience = 2 * redis_conf_patch.PATIENCE + 10
        patch = redis_conf_patch.patch
        return await self._threads.run(f"replace {path}", lambda: patch(path, old, new), patience=patience)

    async def copy(self, sources: Mapping[str, str], target: str) -> tuple[FileDigest, ...]:
        pulse, chosen = Pulse(), dict(sources)
        return await self._threads.run(
            f"copy to {target}",
            lambda: redis_copies.copy(chosen, target, pulse),
            pulse=pulse,
            patience=COPY_PATIENCE,
        )

    async def digest(self, directory: str) -> tuple[FileDigest, ...]:
        pulse = Pulse()
        return await self._threads.run(
            f"read {directory}", lambda: redis_copies.digest(directory, pulse), pulse=pulse, patience=COPY_PATIENCE
        )

    async def launch(self, pid: int) -> Launch:
        process = await self._threads.run(f"look at process {pid}", lambda: redis_launch.look(pid))
        return await redis_launch.with_arguments(process, pid)


def _space(directory: str) -> Space | None:
    try:
        about = os.statvfs(directory)
    except OSError:
        return None
    return Space(about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize)


def _mtime(path: str) -> float | None:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return None


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None


def _aof(directory: str, name: str) -> AofFiles:
    """The manifest and the files of one moment: a rewrite that ends meanwhile replaces it and removes old files."""
    manifest, problem = _manifest(directory, name)
    for _ in range(_TRIES):
        sizes, newest, failure = _sizes(directory)
        again, problem = _manifest(directory, name)
        if again == manifest:
            break
        manifest = again
    return AofFiles(manifest, sizes, newest, failure or problem)


def _manifest(directory: str, name: str) -> tuple[str | None, str]:
    try:
        return redis_conf_files.read_text(str(Path(directory, f"{name}.manifest")))[0], ""
    except OSError as error:
        return None, "" if error.errno in _GONE else f"manifest: {reason(error)}"


def _sizes(directory: str) -> tuple[dict[str, int], float, str]:
    sizes: dict[str, int] = {}
    newest = 0.0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    about = entry.stat()
                except FileNotFoundError:
                    continue  # It was removed meanwhile.
                if stat.S_ISREG(about.st_mode):
                    sizes[entry.name] = about.st_size
                    newest = max(newest, about.st_mtime)
    except OSError as error:
        return {}, 0.0, "" if error.errno in _GONE else reason(error)
    return sizes, newest, ""
