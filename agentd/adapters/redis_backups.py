"""The BackupFiles port: files of backups and restores on this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from agentd.adapters import redis_backup_words as words
from agentd.adapters import redis_place
from agentd.adapters.file_threads import Pulse
from agentd.adapters.fileset import missing_parents, sync
from agentd.adapters.redis_files import COPY_PATIENCE, LocalDataFiles
from agentd.core.redis_backup import PARTIAL
from agentd.core.redis_placement import Placement
from agentd.errors import AgentdError

LARGEST = 4 * 1024**2
"""Bytes of a text."""

Result = TypeVar("Result")


class LocalBackupFiles(LocalDataFiles):
    """Between `stage` and `commit` or `unstage` it holds a lock on the directory. What is cancelled has come to its end
    when CancelledError is raised."""

    def __init__(self) -> None:
        super().__init__()
        self._locks: dict[str, int] = {}

    async def prepare(self, directory: str) -> tuple[str, ...]:
        return await self._run("write to", directory, lambda: _prepare(Path(directory)))

    async def text(self, path: str) -> str | None:
        return await self._run("read", path, lambda: _text(path))

    async def write(self, path: str, text: str) -> None:
        await self._run("write", path, lambda: _write(Path(path), text))

    async def move(self, source: str, target: str) -> None:
        await self._run("write", target, lambda: _move(Path(source), Path(target)))

    async def remove(self, path: str) -> None:
        pulse = redis_place.Steady()
        await self._run("remove", path, lambda: _remove(Path(path), pulse), pulse)

    async def discard(self, directory: str) -> None:
        await self.remove(directory)

    async def link(self, sources: Mapping[str, str], target: str) -> None:
        chosen = dict(sources)
        linked = await self._run("write to", target, lambda: _linked(chosen, Path(target)))
        if not linked:
            await self.copy(chosen, target)

    async def access(self, path: str) -> str:
        return await self._run("look at", path, lambda: words.access(path))

    async def stage(self, plan: Placement) -> None:
        directory = plan.layout.directory
        taken: list[int] = []
        pulse = Pulse()
        try:
            await self._run("write to", directory, lambda: taken.append(redis_place.lock(plan)))
            await self._run("write to", directory, lambda: redis_place.stage(plan, pulse), pulse)
        except BaseException:
            for descriptor in taken:
                os.close(descriptor)
            raise
        self._locks[directory] = taken[0]

    async def commit(self, plan: Placement) -> tuple[str, tuple[str, ...]]:
        pulse, directory = redis_place.Steady(), plan.layout.directory
        try:
            return await self._run("write to", directory, lambda: redis_place.commit(plan, pulse), pulse)
        finally:
            self._unlock(directory)

    async def unstage(self, plan: Placement) -> None:
        directory = plan.layout.directory
        if directory in self._locks:
            try:
                await self._run("write to", directory, lambda: redis_place.unstage(plan))
            finally:
                self._unlock(directory)

    def _unlock(self, directory: str) -> None:
        descriptor = self._locks.pop(directory, None)
        if descriptor is not None:
            os.close(descriptor)

    async def _run(self, doing: str, path: str, function: Callable[[], Result], pulse: Pulse | None = None) -> Result:
        """Once it was cancelled, nothing goes on in the background."""
        return await self._threads.run(
            f"{doing} {path}",
            lambda: _in_words(doing, path, function),
            pulse=pulse or redis_place.Steady(),
            patience=COPY_PATIENCE,
        )


def _in_words(doing: str, path: str, function: Callable[[], Result]) -> Result:
    try:
        return function()
    except OSError as error:
        raise words.told(doing, path, error) from None


def _prepare(directory: Path) -> tuple[str, ...]:
    for folder in missing_parents([directory / "x"]):
        folder.mkdir(0o700, exist_ok=True)
        sync([folder.parent])
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return tuple(sorted(path.name for path in directory.iterdir()))


def _text(path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, f"larger than {LARGEST} bytes")
    return data.decode(errors="replace")


def _write(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(descriptor)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync([path.parent])


def _move(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    source.rename(target)
    sync({source.parent, target.parent})


def _remove(path: Path, pulse: Pulse) -> None:
    """A backup that was begun to be removed is none any more, by its name."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        doomed = path
        if not path.name.endswith(PARTIAL):
            doomed = path.with_name(path.name + PARTIAL)
            _remove(doomed, pulse)
            path.rename(doomed)
        for folder, folders, files in os.walk(doomed, topdown=False):
            for name in files:
                pulse.beat()
                Path(folder, name).unlink(missing_ok=True)
            for name in folders:
                _remove_folder(Path(folder, name))
        doomed.rmdir()
    sync([path.parent])


def _remove_folder(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        path.rmdir()


def _linked(sources: Mapping[str, str], target: Path) -> bool:
    """False when the file system has no hard links, or not for us; nothing is left then."""
    for name in sources:
        if os.path.isabs(name) or ".." in Path(name).parts:  # noqa: PTH117
            raise AgentdError("file-outside", f"cannot link to {name!r}: not a name below the target")
    partial = target.with_name(target.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(0o700)
    try:
        for name, path in sources.items():
            place = partial / name
            place.parent.mkdir(0o700, parents=True, exist_ok=True)
            os.link(path, place, follow_symlinks=False)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in redis_place.NO_LINK:
            return False
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial)
        raise
    return True
