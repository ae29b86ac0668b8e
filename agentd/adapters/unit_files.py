"""Unit files and drop-ins as they lie on the disk: which of them systemd would read, and what is in them."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator, Sequence

from agentd.evidence import UnitFile

LARGEST = 1024 * 1024
"""Bytes. systemd refuses a larger unit file as well."""
_PREFIX_ENDS = "-"


class LocalUnitFiles:
    """The UnitFiles port. `root` stands before every path, and only tests give one."""

    def __init__(self, root: str = "") -> None:
        self._root = root.rstrip("/")

    async def read_all(self, paths: Sequence[str]) -> tuple[UnitFile, ...]:
        return await asyncio.to_thread(lambda: tuple(self._read(path) for path in paths))

    async def dropins_of(self, unit: str, unit_dirs: Sequence[str]) -> tuple[UnitFile, ...]:
        return await asyncio.to_thread(self._dropins, unit, tuple(unit_dirs))

    def _dropins(self, unit: str, unit_dirs: Sequence[str]) -> tuple[UnitFile, ...]:
        found: dict[str, str] = {}
        for directory in self._directories(unit, unit_dirs):
            for name in self._names(directory):
                found.setdefault(name, f"{directory}/{name}")
        return tuple(self._read(path) for _, path in sorted(found.items(), key=lambda item: os.fsencode(item[0])))

    def _directories(self, unit: str, unit_dirs: Sequence[str]) -> Iterator[str]:
        """The *.d directories by falling priority: by unit directory first, then from special to general, and those
        of the whole type last. A directory that is a link counts as the one behind it, as in DropInPaths."""
        stems = tuple(stems_of(unit))
        kind = unit.rpartition(".")[2]
        for names in (stems, (kind,)):
            for base in unit_dirs:
                for name in names:
                    path = f"{base}/{name}.d"
                    if os.path.isdir(self._root + path):  # noqa: PTH112 - some hundred per unit
                        yield path if self._root else os.path.realpath(path)

    def _names(self, directory: str) -> tuple[str, ...]:
        """Like systemd, which looks at the names alone: a link to nowhere, even a directory, hides a file of the same
        name in a more general place."""
        try:
            names = os.listdir(self._root + directory)  # noqa: PTH208 - names are all there is to it
        except OSError:
            return ()
        return tuple(name for name in names if name.endswith(".conf") and not name.startswith("."))

    def _read(self, path: str) -> UnitFile:
        place = self._root + path
        try:
            about = os.lstat(place)
            link = os.readlink(place) if stat.S_ISLNK(about.st_mode) else ""  # noqa: PTH115 - one call
        except OSError:
            return UnitFile(path, None)
        return UnitFile(path, _text(place), link, about.st_mtime)


def stems_of(unit: str) -> Iterator[str]:
    """The names whose *.d belongs to a unit, special to general. "a-b@x.service" has its own and those of its template
    ("a-b@.service", then "a-.service"), then those of its prefix as an instance ("a-@x.service", "a-@.service")."""
    yield unit
    stem, _, kind = unit.rpartition(".")
    prefix, _, instance = stem.partition("@")
    if instance:
        yield from stems_of(f"{prefix}@.{kind}")
    shorter = _shorter(prefix)
    if shorter:
        yield from stems_of(f"{shorter}@{instance}.{kind}" if instance else f"{shorter}.{kind}")


def _shorter(prefix: str) -> str:
    """ "a-b" -> "a-", "a-" -> "" (one dash at the end is not counted), "-a" -> ""."""
    body = prefix.removesuffix(_PREFIX_ENDS)
    cut = body.rfind("-")
    return body[: cut + 1] if cut > 0 else ""


def _text(place: str) -> str | None:
    """None for what is gone, no regular file, too large, or not ours to read. /dev/null is empty."""
    if os.path.realpath(place) == os.devnull:
        return ""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
            return None
        return os.read(fd, LARGEST).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(fd)
