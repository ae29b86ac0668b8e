"""A restored data set put into a server's directory: everything is laid beside its place, then a few renames decide.
Blocks, and beats while it works.

The order: links to every old file in a directory of their own; the new base and increment under names that no file has;
the manifest, renamed over the old one; the RDB, renamed over the old one; only then the old names go.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from agentd.adapters.file_threads import Pulse
from agentd.adapters.fileset import sync
from agentd.adapters.redis_backup_words import no_space, told
from agentd.core.aof_manifest import render_manifest
from agentd.core.redis_backup import PARTIAL
from agentd.core.redis_placement import KEPT, STAGED, Placement, part_names
from agentd.errors import AgentdError

PIECE = 1024 * 1024
SYNC_EVERY = 64 * 1024**2
NO_LINK = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
"""The file system has no hard links, the kernel refuses one to a file of others, or it lies elsewhere."""


class Steady(Pulse):
    """The beat of work that has to come to its end once it began."""

    def stop(self) -> None:
        """Whoever asks waits."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose new files are, and what others may do with them."""

    uid: int
    gid: int
    file_mode: int
    folder_mode: int

    def of_file(self, descriptor: int) -> None:
        self._give(descriptor)
        os.fchmod(descriptor, self.file_mode)

    def of_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._give(descriptor)
            os.fchmod(descriptor, self.folder_mode)
        finally:
            os.close(descriptor)

    def _give(self, descriptor: int) -> None:
        if os.geteuid() == 0:
            os.fchown(descriptor, self.uid, self.gid)


def lock(plan: Placement) -> int:
    """flock on the directory itself: it leaves no file behind, and ends with the process. Close the answer."""
    directory = plan.layout.directory
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise told("write to", directory, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise AgentdError("restore-busy", f"cannot restore into {directory}: another restore works there") from None
    return descriptor


def stage(plan: Placement, pulse: Pulse) -> None:
    """See the BackupFiles port. The caller holds the lock. After an error nothing of it is left."""
    directory, aof = Path(plan.layout.directory), Path(plan.layout.aof)
    try:
        owner = _owner(plan)
        unstage(plan)
        if not aof.is_dir():
            aof.mkdir(0o700)
            owner.of_folder(aof)
        no_space(directory, 2 * plan.size)
        for path in (plan.staged_rdb, plan.staged_base):
            _copy(plan, Path(path), owner, pulse)
        sync([directory, aof])
    except BaseException as error:
        with contextlib.suppress(OSError):
            unstage(plan)
        if isinstance(error, OSError):
            raise told("write to", directory, error) from None
        raise


def unstage(plan: Placement) -> None:
    """Also what a restore that was killed before its first rename left: its links, to files that are all in place."""
    directory = Path(plan.layout.directory)
    for path in (plan.staged_rdb, plan.staged_base, plan.staged_manifest):
        Path(path).unlink(missing_ok=True)
    for found in directory.glob(f"{KEPT}*{PARTIAL}"):
        shutil.rmtree(found)


def commit(plan: Placement, pulse: Pulse) -> tuple[str, tuple[str, ...]]:
    """See the BackupFiles port. The caller holds the lock."""
    layout = plan.layout
    directory, aof = Path(layout.directory), Path(layout.aof)
    made: list[Path] = []
    try:
        owner = _owner(plan)
        old = _old_files(plan)
        base, increment = part_names(layout.appendfilename, os.listdir(aof))  # noqa: PTH208 - names are enough
        manifest = render_manifest(base, (increment,))
        kept = _keep(plan, old, owner, made, pulse)
        made += [aof / base, aof / increment, Path(plan.staged_manifest)]
        _create(aof / increment, "", owner)
        _create(Path(plan.staged_manifest), manifest, owner)
        Path(plan.staged_base).rename(aof / base)
        sync([aof])
        Path(plan.staged_manifest).rename(layout.manifest)
    except BaseException as error:
        _take_back(made)
        with contextlib.suppress(OSError):
            unstage(plan)
        if isinstance(error, OSError):
            raise told("write to", directory, error, hint="nothing was changed") from None
        raise
    try:
        sync([aof])
        Path(plan.staged_rdb).rename(layout.rdb)
        sync([directory])
        for name in old:
            if directory / name not in (Path(layout.rdb), Path(layout.manifest)):
                (directory / name).unlink(missing_ok=True)
        sync([aof, directory])
    except OSError as error:
        hint = "do not start the server; run the same restore again" + (
            f" (the old files are in {kept})" if kept else ""
        )
        raise told("write to", directory, error, hint=hint) from None
    folder = layout.appenddirname
    names = (layout.dbfilename, f"{folder}/{Path(layout.manifest).name}", f"{folder}/{base}", f"{folder}/{increment}")
    return kept, names


def _owner(plan: Placement) -> Owner:
    """As the directory; modes as the files had them, never wider than for the group."""
    directory, aof = Path(plan.layout.directory), Path(plan.layout.aof)
    about = directory.stat()
    if os.geteuid() not in (0, about.st_uid):
        raise AgentdError(
            "file-owner",
            f"cannot restore into {directory}: it belongs to user {about.st_uid} and we are user {os.geteuid()}, so the"
            " server could not read our files",
            hint="do it as root, or as that user",
        )
    if aof.is_symlink() and aof.lstat().st_uid not in (0, os.geteuid()):
        # Root must not be led anywhere by a link of the server's user.
        raise AgentdError(
            "file-owner",
            f"cannot restore into {aof}: it is a link of user {aof.lstat().st_uid}",
            hint="do it as that user, or put the directory itself there",
        )
    rdb = Path(plan.layout.rdb)
    old = stat.S_IMODE(rdb.lstat().st_mode) if rdb.is_file() and not rdb.is_symlink() else 0
    return Owner(about.st_uid, about.st_gid, 0o600 | (old & 0o660), 0o700 | (stat.S_IMODE(about.st_mode) & 0o770))


def _old_files(plan: Placement) -> tuple[str, ...]:
    """Names below the directory: the RDB, all files of the append-only directory, and the single append-only file of
    Redis before 7. What is no file (a directory of somebody's) is left alone."""
    layout = plan.layout
    names = [layout.dbfilename, layout.appendfilename]
    names += [f"{layout.appenddirname}/{path.name}" for path in sorted(Path(layout.aof).iterdir())]
    return tuple(n for n in names if not n.endswith(STAGED) and _is_file(Path(layout.directory, n)))


def _is_file(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _keep(plan: Placement, old: tuple[str, ...], owner: Owner, made: list[Path], pulse: Pulse) -> str:
    """Every old file under a second name, in a directory that appears when it is whole; its path, "" without any."""
    if not old:
        return ""
    directory = Path(plan.layout.directory)
    partial = Path(plan.kept + PARTIAL)
    made.append(partial)
    folders = [partial, *([partial / plan.layout.appenddirname] if any("/" in name for name in old) else [])]
    for folder in folders:
        folder.mkdir(0o700)
    for name in old:
        pulse.beat()
        _second_name(directory / name, partial / name, pulse)
    sync(folders)
    for folder in folders:
        owner.of_folder(folder)
    kept, number = Path(plan.kept), 1
    while os.path.lexists(kept):
        number += 1
        kept = Path(f"{plan.kept}-{number}")
    partial.rename(kept)
    made.append(kept)
    sync([directory])
    return str(kept)


def _second_name(path: Path, target: Path, pulse: Pulse) -> None:
    try:
        os.link(path, target, follow_symlinks=False)
        return
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    with path.open("rb") as source, target.open("xb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        while piece := source.read(PIECE):
            pulse.beat()
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())


def _copy(plan: Placement, target: Path, owner: Owner, pulse: Pulse) -> None:
    """Raises AgentdError("backup-damaged") when what was copied is not what the plan names."""
    sha, size, pending = hashlib.sha256(), 0, 0
    try:
        source = Path(plan.rdb).open("rb")  # noqa: SIM115 - its errors are told in other words
    except OSError as error:
        raise told("read", plan.rdb, error) from None
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with source, os.fdopen(descriptor, "wb") as stream:
        while piece := source.read(PIECE):
            pulse.beat()
            sha.update(piece)
            stream.write(piece)
            size, pending = size + len(piece), pending + len(piece)
            if pending >= SYNC_EVERY:
                stream.flush()
                os.fdatasync(descriptor)
                pending = 0
        stream.flush()
        owner.of_file(descriptor)
        os.fsync(descriptor)
    if (size, sha.hexdigest()) != (plan.size, plan.sha256):
        raise AgentdError("backup-damaged", f"cannot use {plan.rdb}: it is no longer what it was when it was checked")


def _create(path: Path, text: str, owner: Owner) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text.encode())
        stream.flush()
        owner.of_file(descriptor)
        os.fsync(descriptor)


def _take_back(made: list[Path]) -> None:
    for path in made:
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
